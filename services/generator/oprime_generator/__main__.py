"""`python -m oprime_generator RUN/config.toml`."""

from oprime.runtime.process import main
from oprime_generator.app import serve
from oprime_generator.config import GeneratorSettings

if __name__ == "__main__":
    main("generator", GeneratorSettings, serve)
