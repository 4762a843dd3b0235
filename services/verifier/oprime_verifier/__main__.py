"""`python -m oprime_verifier RUN/config.toml`."""

from oprime.runtime.process import main
from oprime_verifier.app import serve
from oprime_verifier.config import VerifierSettings

if __name__ == "__main__":
    main("verifier", VerifierSettings, serve)
