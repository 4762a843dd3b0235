"""The sandbox's zygote, whose children close no lock: what isolation costs is the difference. Only `bench.verifier` starts it."""

import sys
from pathlib import Path

SANDBOX = Path(__file__).resolve().parents[1] / "services/verifier/oprime_verifier/sandbox"


def main() -> None:
    sys.path.insert(0, str(SANDBOX))
    import zygote  # pyright: ignore[reportMissingImports] - beside the sandbox's other files, on this path only

    sys.path.remove(str(SANDBOX))
    zygote.borrow_packages()
    from oprime_verifier.sandbox.inside import lockdown

    lockdown.apply = lockdown.narrow = lambda *_, **__: None
    zygote.main()


if __name__ == "__main__":
    main()
