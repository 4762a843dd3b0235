"""python -m oprime_prm CONFIG.toml"""

from oprime.runtime.process import main
from oprime_prm.app import serve
from oprime_prm.config import PrmSettings

if __name__ == "__main__":
    main("prm", PrmSettings, serve)
