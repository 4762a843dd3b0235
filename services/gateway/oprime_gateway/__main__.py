"""`python -m oprime_gateway RUN/config.toml`."""

from oprime.runtime.fast_loop import fast_loop
from oprime.runtime.process import main
from oprime_gateway.app import serve
from oprime_gateway.config import GatewaySettings

if __name__ == "__main__":
    main("gateway", GatewaySettings, serve, loop=fast_loop())
