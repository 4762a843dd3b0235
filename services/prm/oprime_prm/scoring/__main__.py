"""python -m oprime_prm.scoring CONFIG.toml"""

from oprime.runtime.fast_loop import fast_loop
from oprime.runtime.process import Lifecycle, main
from oprime_prm.config import ScorerSettings


async def serve(settings: ScorerSettings, lifecycle: Lifecycle) -> None:
    from oprime_prm.scoring.app import serve as serve_replica

    await serve_replica(settings, lifecycle)


if __name__ == "__main__":
    main("prm.scoring", ScorerSettings, serve, loop=fast_loop())
