"""python -m oprime_learner CONFIG.toml"""

from oprime.runtime.process import Lifecycle, main
from oprime_learner.config import LearnerSettings


async def serve(settings: LearnerSettings, lifecycle: Lifecycle) -> None:
    # Not above: the process that starts the ranks needs no torch.
    from oprime_learner.app import serve as serve_rank

    await serve_rank(settings, lifecycle)


if __name__ == "__main__":
    main("learner", LearnerSettings, serve, ranks=lambda settings: settings.learner.ranks)
