"""Certificates of gRPC servers and channels: read from files, checked together, and read anew when they are renewed."""

import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from oprime.runtime.errors import SettingsError
from oprime.runtime.secret_files import unreadable_remedy, warn_if_open
from oprime.runtime.settings import TlsSection

log = structlog.get_logger()

LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """PEM texts. `certificate` and `key` are empty for a client that shows none, `authority` is empty if public authorities count."""

    certificate: bytes
    key: bytes
    authority: bytes


class RenewedCertificates:
    """The certificates in files. Whoever renews them replaces the files; a set that does not fit together is left alone until it does.

    Usable from any thread.
    """

    def __init__(self, tls: TlsSection, setting: str) -> None:
        """Raises SettingsError, naming `setting`, unless the files can be used."""
        self._tls = tls
        self._setting = setting
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._current = self._read()
        self._looked = time.monotonic()
        if tls.key_file:
            warn_if_open(tls.key_file, f"{setting}.key_file")

    def current(self) -> Certificates:
        """The newest usable set: the same object until it is renewed. Looks at the files once a second at most."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_EVERY_S:
                self._looked = time.monotonic()
                self._renew()
            return self._current

    def _renew(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        # Whether it can be used or not: a file that changes later has another stamp.
        self._stamp = stamp
        try:
            self._current = self._read()
        except SettingsError as error:
            log.warning("certificates_not_renewed", error=str(error))
        else:
            log.info("certificates_renewed", setting=self._setting)

    def _files(self) -> dict[str, Path | None]:
        return {name: getattr(self._tls, name) for name in ("certificate_file", "key_file", "authority_file")}

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._files().values()]

    def _read(self) -> Certificates:
        certificate, key, authority = (self._content(name, path) for name, path in self._files().items())
        self._check()
        return Certificates(certificate=certificate, key=key, authority=authority)

    def _content(self, name: str, path: Path | None) -> bytes:
        try:
            return path.read_bytes() if path else b""
        except OSError as error:
            raise SettingsError(f"{self._setting}.{name} ({path}) cannot be read: {error.strerror}; {unreadable_remedy(error)}") from error

    def _check(self) -> None:
        """gRPC takes whatever it is given and fails every call later, without a reason."""
        tls = self._tls
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if tls.authority_file:
                context.load_verify_locations(tls.authority_file)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(f"{self._setting}.authority_file ({tls.authority_file}) holds no certificates in PEM: {error}") from error
        try:
            if tls.certificate_file and tls.key_file:
                # Without a password: an encrypted key would otherwise ask for one on the terminal.
                context.load_cert_chain(tls.certificate_file, tls.key_file, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise SettingsError(
                f"{self._setting}.certificate_file ({tls.certificate_file}) and {self._setting}.key_file ({tls.key_file}) are no pair: "
                f"{error}; both must be PEM, the key unencrypted and the certificate's own"
            ) from error


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size) if found else None
