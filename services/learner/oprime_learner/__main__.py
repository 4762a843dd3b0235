"""python -m oprime_learner CONFIG.toml"""

from oprime.runtime.process import main
from oprime_learner.app import serve
from oprime_learner.config import LearnerSettings

if __name__ == "__main__":
    main("learner", LearnerSettings, serve)
