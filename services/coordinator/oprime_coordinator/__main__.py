"""python -m oprime_coordinator CONFIG.toml"""

from oprime.runtime.process import main
from oprime_coordinator.app import serve
from oprime_coordinator.config import CoordinatorSettings

if __name__ == "__main__":
    main("coordinator", CoordinatorSettings, serve)
