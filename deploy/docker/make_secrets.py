"""Makes the passwords of a compose run: `python make_secrets.py FILE...`. Keeps those that exist."""

import secrets
import sys
from pathlib import Path


def make(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        return
    path.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
    # Its volume is what keeps others away: each container that mounts it reads it, under a user of its own.
    path.chmod(0o444)
    sys.stdout.write(f"made {path}\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        make(Path(name))
