"""python -m oprime_prm CONFIG.toml"""

from oprime.runtime.process import Lifecycle, main
from oprime_prm.config import PrmSettings


async def serve(settings: PrmSettings, lifecycle: Lifecycle) -> None:
    # Not above: the process that starts the ranks needs no torch.
    from oprime_prm.app import serve as serve_rank

    await serve_rank(settings, lifecycle)


if __name__ == "__main__":
    main("prm", PrmSettings, serve, ranks=lambda settings: settings.prm.ranks if settings.algorithm.needs_prm else 0)
