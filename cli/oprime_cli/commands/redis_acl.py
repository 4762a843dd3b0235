"""`oprime redis-acl CONFIG`: a user of Redis for each service of a run, with the rights that it needs."""

import argparse
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from oprime_cli.arguments import Subparsers, add_config, command_parser

if TYPE_CHECKING:
    from oprime_cli.run_config import RunConfig


def add_parser(subparsers: Subparsers) -> None:
    parser = command_parser(
        subparsers,
        "redis-acl",
        description="Write the access list of a run's Redis (its setting aclfile): a user for each service that may do what the service "
        "does on this run's keys and nothing else, and no other user. queue.username in CONFIG says what they are called and must hold "
        "{service}. Passwords are in one file for each user, made here unless they exist; the list holds their SHA-256 alone.",
        example="oprime redis-acl run.toml --passwords secrets/redis --out users.acl",
    )
    add_config(parser)
    parser.add_argument(
        "--passwords",
        metavar="FOLDER",
        type=Path,
        help="folder of the password files, each named like its user (default: queue.password_file)",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="where to write the list (default: standard output)")


def run(arguments: argparse.Namespace) -> int:
    from oprime.adapters.redis_access import SERVICES, access_file
    from oprime.runtime.secret_files import read_secret
    from oprime_cli.files import write_atomically
    from oprime_cli.overrides import load_config

    config = load_config(Path(arguments.config), arguments.overrides)
    users: dict[str, tuple[str, str]] = {}
    for service, path in _password_files(config, arguments.passwords, tuple(SERVICES)).items():
        if not path.exists():
            _make(path)
        password = read_secret(path, "queue.password_file").decode("utf-8", "surrogateescape")
        users[service] = (config.queue.as_user(service).username, password)
    text = access_file(config.run.name, config.queue.url, users)
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        write_atomically(arguments.out, text, mode=0o640)
    return 0


def _password_files(config: "RunConfig", folder: Path | None, services: tuple[str, ...]) -> dict[str, Path]:
    """Service -> its password's file. Raises SettingsError where services would share a user or a password."""
    from oprime.runtime.errors import SettingsError
    from oprime.runtime.settings import PLACEHOLDER

    queue = config.queue
    if PLACEHOLDER not in queue.username:
        raise SettingsError(
            f"queue.username = {queue.username!r} is one user for all services: write a name with {PLACEHOLDER} in it, for example "
            f'queue.username="{PLACEHOLDER}"'
        )
    if folder is not None:
        return {service: folder / queue.as_user(service).username for service in services}
    if PLACEHOLDER not in str(queue.password_file):
        raise SettingsError(
            f"queue.password_file = {str(queue.password_file)!r} is one file for all services: write {PLACEHOLDER} into it, or name the "
            "folder of their passwords with --passwords"
        )
    return {service: path for service in services if (path := queue.as_user(service).password_file)}


def _make(path: Path) -> None:
    """A new password that only this user can read."""
    from oprime.runtime.errors import OprimeError

    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    except OSError as error:
        raise OprimeError(f"the password {path} cannot be made: {error.strerror}; name a folder of yours with --passwords") from error
    sys.stderr.write(f"made {path}\n")
