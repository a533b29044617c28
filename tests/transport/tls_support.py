"""Certificates for the tests of TLS: an authority, and what nodes and strangers have of it."""

import asyncio
import datetime as dt
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme

from rafter_transport.tls import PeerTls, TlsContexts, TlsFiles

DAY = dt.timedelta(days=1)


async def until(predicate: Callable[[], bool]) -> None:
    """Wait for what only counters tell, looked at now and then; the test has a deadline."""
    event = asyncio.Event()
    while not predicate():
        try:
            async with asyncio.timeout(0.005):
                await event.wait()
        except TimeoutError:
            continue


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Authority:
    """A certificate authority and a directory for what it issues."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.ca = directory / f"{name}.pem"
        self.authority.cert_pem.write_to_path(self.ca)

    def issue(
        self,
        name: str,
        *,
        file: str | None = None,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
    ) -> tuple[Path, Path]:
        """Write a certificate for a DNS name, and its key; return the two paths."""
        issued = self.authority.issue_cert(name, not_before=not_before, not_after=not_after)
        certificate = self.directory / f"{file or name}.crt"
        key = self.directory / f"{file or name}.key"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(key)
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return certificate, key

    def expired(self, name: str) -> tuple[Path, Path]:
        return self.issue(
            name, file=f"{name}-expired", not_before=now() - 2 * DAY, not_after=now() - DAY
        )

    def future(self, name: str) -> tuple[Path, Path]:
        return self.issue(
            name, file=f"{name}-future", not_before=now() + DAY, not_after=now() + 2 * DAY
        )

    def files(self, name: str) -> TlsFiles:
        return TlsFiles("peer", *self.issue(name), self.ca)

    def tls(self, node: int, pattern: str = "node-{id}") -> PeerTls:
        """What a node has that is in order."""
        name = pattern.replace("{id}", str(node))
        return PeerTls(node, self.files(name), pattern)


class CarelessTls(PeerTls):
    """TLS of a node that does not look: at its own certificate, nor at that of the others."""

    def __init__(self, contexts: Any) -> None:
        self._contexts = contexts

    def check(self, certificate: dict[str, Any] | None, node: int) -> None:
        return None


def careless(
    files: tuple[Path, Path] | None,
    *,
    highest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> CarelessTls:
    """TLS with any certificate, or none, that accepts any other."""
    server, client = (
        ssl.SSLContext(protocol) for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    for context in (server, client):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = highest
        if files is not None:
            context.load_cert_chain(*files)
    return CarelessTls(TlsContexts(server, client))
