"""Certificates for tests: an authority of the test's own, and what it signs."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from oprime.runtime.settings import TlsSection

AGO = timedelta(days=2)


class Authority:
    """Signs certificates; files are in `folder`, which the authority's own certificate is put into as well."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.crt"
        self.file.write_bytes(_pem(self._signed(name, self._key, names=(), days=10, is_authority=True)))

    def issue(self, holder: str, *names: str, days: float = 1) -> TlsSection:
        """A certificate for those names and addresses, in HOLDER.crt and HOLDER.key; whatever is there is replaced.

        It has expired if `days` is negative.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate_file, key_file = self._folder / f"{holder}.crt", self._folder / f"{holder}.key"
        key_file.touch(mode=0o600)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key_file.write_bytes(private)
        certificate_file.write_bytes(_pem(self._signed(holder, key, names=names, days=days)))
        return TlsSection(certificate_file=certificate_file, key_file=key_file, authority_file=self.file)

    def _signed(
        self, holder: str, key: ec.EllipticCurvePrivateKey, *, names: Sequence[str], days: float, is_authority: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(_called(holder))
            .issuer_name(_called(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - AGO)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            made = made.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        return made.sign(self._key, hashes.SHA256())


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
