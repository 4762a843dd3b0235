"""Secrets come from files, never from settings, addresses or the environment, which logs, process lists and crash reports show."""

import re
import stat
from collections.abc import Mapping
from pathlib import Path

import structlog

from oprime.runtime.errors import SettingsError

log = structlog.get_logger()

MOUNTED = Path("/run/secrets")
"""Where containers have their secrets. Nobody else looks into a container, and how open a file is there is not for its user to say."""
_warned: set[Path] = set()


def read_secret(path: Path, setting: str) -> bytes:
    """What is in a file, without the line's end; warns once if other users of this machine can read it.

    Raises SettingsError when it is missing, unreadable or empty.
    """
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"{setting} ({path}) cannot be read: {error.strerror}; {unreadable_remedy(error)}") from error
    if not secret:
        raise SettingsError(f"{setting} ({path}) is empty: write the secret into it")
    warn_if_open(path, setting)
    return secret


def unreadable_remedy(error: OSError) -> str:
    """What to do about a file with a secret that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "write it, for this user alone (chmod 600), or name another file"
    if isinstance(error, PermissionError):
        return "let the user of this process read it, or name another file"
    return "name a file"


def warn_if_open(path: Path, setting: str) -> None:
    """A warning and no refusal: platforms mount secrets readable by all, and a run of hours should not end for it."""
    if path in _warned or not others_can_read(path):
        return
    _warned.add(path)
    log.warning("secret_is_open", setting=setting, file=str(path), reason="other users of this machine can read it", remedy="chmod 600")


def others_can_read(path: Path) -> bool:
    """Whether the file and every folder above it are open to all users of this machine."""
    path = path.resolve()
    if path.is_relative_to(MOUNTED) or not path.stat().st_mode & stat.S_IROTH:
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


_SECRET_NAME = re.compile(r"^OPRIME_.*(PASSWORD|SECRET|TOKEN|API_?KEY|PRIVATE_?KEY)S?$")


def refuse_secrets_in(environment: Mapping[str, str]) -> None:
    """Raises SettingsError if a variable for oprime would hold a secret: nothing reads it, and others could."""
    given = sorted(name for name, value in environment.items() if value and _SECRET_NAME.match(name.upper()))
    if given:
        raise SettingsError(
            f"the environment holds {', '.join(given)}: oprime takes secrets from files alone; write it into a file that only this user "
            "can read, name that in queue.password_file, gateway.api_keys_file or endpoints.tls.key_file, and remove the variable"
        )
