"""`python -m oprime_gateway RUN/config.toml`."""

from oprime.runtime.process import main
from oprime_gateway.app import serve
from oprime_gateway.config import GatewaySettings

if __name__ == "__main__":
    main("gateway", GatewaySettings, serve)
