"""Making certificates: a private authority, and what nodes and clients have of it.

For trying, and for whoever has no authority of their own. Needs the package `cryptography`, which
a running node does not. No file is ever overwritten; keys can be read by their owner alone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "CertificateError", "Issued", "make_authority", "open_authority"]

AUTHORITY_NAME = "ca"
CLOCK_TOLERANCE = dt.timedelta(minutes=10)
"""Certificates are valid from this long ago: the clock of another host may be behind."""

_SECRET_MODE = 0o600
_PUBLIC_MODE = 0o644
_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


class CertificateError(Exception):
    """A certificate cannot be made. The text names the file or the name, and the reason."""


class Issued(NamedTuple):
    """The files that were written."""

    certificate: Path
    key: Path


class Authority(NamedTuple):
    """An authority that can issue."""

    directory: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue_node(self, name: str, hosts: Sequence[str], days: int) -> Issued:
        """Write `name`.crt and `name`.key for a node that is called so, at these addresses.

        It serves on the peer port, and on the client port of those `hosts`. Raises
        CertificateError; nothing is written then.
        """
        return self._issue(name, [name, *hosts], (_SERVER, _CLIENT), days)

    def issue_client(self, name: str, days: int) -> Issued:
        """Write `name`.crt and `name`.key for a client. Raises CertificateError."""
        return self._issue(name, [name], (_CLIENT,), days)

    def _issue(
        self,
        name: str,
        names: Sequence[str],
        usages: Sequence[x509.ObjectIdentifier],
        days: int,
    ) -> Issued:
        alternatives = [_general_name(each) for each in dict.fromkeys(names)]
        key = _new_key()
        builder = (
            _builder(_subject(name), self.certificate.subject, key, days)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        certificate = builder.sign(self.key, hashes.SHA256())
        return _write_pair(self.directory, name, certificate, key)


def make_authority(directory: Path, common_name: str, days: int) -> Issued:
    """Make an authority: ca.crt and ca.key in `directory`, which is made if it is missing.

    Raises CertificateError.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateError(f"{directory}: cannot be made: {error.strerror}") from error
    key = _new_key()
    subject = _subject(common_name)
    builder = (
        _builder(subject, subject, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return _write_pair(directory, AUTHORITY_NAME, certificate, key)


def open_authority(directory: Path) -> Authority:
    """Read what `make_authority` has written. Raises CertificateError."""
    certificate_path, key_path = _paths(directory, AUTHORITY_NAME)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except OSError as error:
        raise CertificateError(
            f"{error.filename}: cannot be read: {error.strerror}; "
            "an authority is made with: rafterd cert authority"
        ) from error
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{directory}: ca.crt and ca.key cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != certificate.public_key()
    ):
        raise CertificateError(f"{key_path}: is not the key of {certificate_path}")
    return Authority(directory, certificate, key)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _subject(common_name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError as error:
        raise CertificateError(f"{common_name!r}: cannot be a name: {error}") from error


def _general_name(text: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise CertificateError(f"{text!r}: cannot be a name: {error}") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _paths(directory: Path, name: str) -> Issued:
    return Issued(directory / f"{name}.crt", directory / f"{name}.key")


def _write_pair(
    directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> Issued:
    if not name or "/" in name or name.startswith("."):
        raise CertificateError(f"{name!r}: cannot be the name of a file")
    paths = _paths(directory, name)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    with _undone_on_error() as written:
        for path, mode, data in (
            (paths.key, _SECRET_MODE, private),
            (paths.certificate, _PUBLIC_MODE, public),
        ):
            try:
                _write_new(path, mode, data, written)
            except FileExistsError:
                raise CertificateError(f"{path}: is there already, and stays as it is") from None
            except OSError as error:
                raise CertificateError(f"{path}: cannot be written: {error.strerror}") from error
    return paths


@contextlib.contextmanager
def _undone_on_error() -> Iterator[list[Path]]:
    """Remove what was written if the rest could not be."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _write_new(path: Path, mode: int, data: bytes, written: list[Path]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    written.append(path)
    with open(descriptor, "wb") as file:
        file.write(data)
