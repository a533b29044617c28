"""TLS between nodes: the files, the contexts made of them, and whom a certificate names.

Both ends show a certificate of the cluster's certificate authority, and TLS 1.3 is the
least. A certificate belongs to node 2 if one of its DNS names is that of node 2: the name pattern
with the node's id in place of "{id}", by default "node-2". These names are identities and not
addresses: where a node runs has nothing to do with it.
"""

import os
import ssl
import stat
from pathlib import Path
from typing import Any, NamedTuple

from rafter_transport.handshake import HandshakeError, Refusal
from rafter_transport.tls_session import TlsSession, describe

__all__ = [
    "NAME_PATTERN", "PeerTls", "TlsContexts", "TlsError", "TlsFiles", "TlsRefusedError",
    "check_name_pattern", "server_context",
]  # fmt: skip

NAME_PATTERN = "node-{id}"
NAME_CHARACTERS_MAX = 253
_CODE = "certificate"
_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._")


class TlsError(OSError):
    """TLS cannot be set up. The text names the key, the file and what is wrong with it."""


class TlsRefusedError(HandshakeError):
    """A connection ended in TLS: one end did not accept the other, or does not speak it at all."""

    code = _CODE


class TlsFiles(NamedTuple):
    """The files of one end, all of them PEM; `section` is the configuration's, for messages.

    `certificate` may hold intermediate certificates behind the first. Without `ca` the other end
    needs no certificate.
    """

    section: str
    certificate: Path
    key: Path
    ca: Path | None


class TlsContexts(NamedTuple):
    """What new connections use: as the accepting end, and as the dialling one."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def check_name_pattern(pattern: str) -> str | None:
    """Return what is wrong with a pattern of names of nodes, or None."""
    if pattern.count("{id}") != 1:
        return "a host name with {id} in it once, where the node's id stands"
    name = pattern.replace("{id}", "65535")
    if len(name) > NAME_CHARACTERS_MAX or not set(name.lower()) <= _ALPHABET:
        return "a host name of letters, digits, '-', '_' and '.', with {id} in it"
    return None


def server_context(files: TlsFiles, *, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Read the files for an accepting end that speaks `version` or a later one.

    With a `ca` the other end has to show a certificate of it. Raises TlsError. Reads from disk and
    may be called in any thread.
    """
    return _context(files, ssl.PROTOCOL_TLS_SERVER, version)


class PeerTls:
    """TLS of one node towards the others. `read` may run in any thread, the rest on one loop."""

    __slots__ = ("_contexts", "_files", "_name_pattern", "_node")

    def __init__(self, node: int, files: TlsFiles, name_pattern: str = NAME_PATTERN) -> None:
        """Read the files. Raises TlsError if other nodes would not accept this one with them."""
        if files.ca is None:
            raise ValueError("peers need a certificate authority")
        problem = check_name_pattern(name_pattern)
        if problem is not None:
            raise ValueError(f"name pattern {name_pattern!r}: {problem}")
        self._node = node
        self._files = files
        self._name_pattern = name_pattern
        self._contexts = self.read()

    def name_of(self, node: int) -> str:
        """Return the DNS name that the certificate of a node has to hold."""
        return self._name_pattern.replace("{id}", str(node))

    def read(self) -> TlsContexts:
        """Read the files anew and try them out against each other. Raises TlsError.

        Nothing changes until `use`.
        """
        files = self._files
        contexts = TlsContexts(
            _context(files, ssl.PROTOCOL_TLS_SERVER, ssl.TLSVersion.TLSv1_3),
            _context(files, ssl.PROTOCOL_TLS_CLIENT, ssl.TLSVersion.TLSv1_3),
        )
        key = f"{files.section}.tls_certificate = {files.certificate}"
        try:
            certificate = _try_out(contexts)
        except ssl.SSLCertVerificationError as error:
            raise TlsError(
                f"{key}: other nodes would refuse it, if they have the same tls_ca: "
                f"{error.verify_message}"
            ) from error
        except ssl.SSLError as error:
            raise TlsError(f"{key}: it cannot be used: {describe(error)}") from error
        refusal = self.check(certificate, self._node)
        if refusal is not None:
            raise TlsError(f"{key}: other nodes would refuse it: {refusal.text}")
        return contexts

    def use(self, contexts: TlsContexts) -> None:
        """Let new connections use these contexts; those that are open stay as they are."""
        self._contexts = contexts

    def reload(self) -> None:
        """Read the files and use them. With TlsError everything stays as it was."""
        self.use(self.read())

    def session(self, *, is_server: bool) -> TlsSession:
        """Return a session for a new connection."""
        contexts = self._contexts
        context = contexts.server if is_server else contexts.client
        return TlsSession(context, is_server=is_server)

    def check(self, certificate: dict[str, Any] | None, node: int) -> Refusal | None:
        """Return why a verified certificate is not that of `node`, or None."""
        if not certificate:
            return Refusal(_CODE, "no certificate was shown")
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        name = self.name_of(node)
        if name.lower() in (found.lower() for found in names):
            return None
        shown = ", ".join(repr(found) for found in names[:4]) or "none"
        return Refusal(
            _CODE,
            f"the certificate is not that of node {node}: "
            f"it must name {name!r}, and its DNS names are {shown}",
        )


def _context(files: TlsFiles, protocol: int, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Make a context of the files, each of which is looked at first, to name it in errors."""
    section, certificate, key, ca = files
    for name, path in (("tls_certificate", certificate), ("tls_key", key), ("tls_ca", ca)):
        if path is not None:
            _check_readable(f"{section}.{name} = {path}", path, is_secret=path is key)
    context = ssl.SSLContext(protocol)
    context.minimum_version = version
    # The name is that of a node and not of a host: `PeerTls.check` looks at it.
    context.check_hostname = False
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        # A resumed session would outlive a certificate that is no longer accepted.
        context.num_tickets = 0
    context.verify_mode = ssl.CERT_NONE if ca is None else ssl.CERT_REQUIRED
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except ssl.SSLError as error:
            raise TlsError(
                f"{section}.tls_ca = {ca}: it holds no certificate that can be read (PEM): "
                f"{describe(error)}"
            ) from error
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _EncryptedError:
        raise TlsError(
            f"{section}.tls_key = {key}: the key has a passphrase, and nobody could enter it"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{section}.tls_key = {key}: it is not the key of {certificate}"
        else:
            text = (
                f"{section}.tls_certificate = {certificate}, {section}.tls_key = {key}: "
                f"not a certificate and its key (PEM): {describe(error)}"
            )
        raise TlsError(text) from error
    return context


class _EncryptedError(Exception):
    """A key asks for a passphrase."""


def _no_password() -> str:
    raise _EncryptedError


def _check_readable(what: str, path: Path, *, is_secret: bool) -> None:
    try:
        # Without waiting: a named pipe would keep us here for good.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TlsError(f"{what}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TlsError(f"{what}: is not a path: {error}") from error
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise TlsError(f"{what}: is not a file")
    if is_secret and is_exposed(stat.S_IMODE(status.st_mode), status.st_uid, os.geteuid()):
        raise TlsError(
            f"{what}: others than its owner may read it (mode {stat.S_IMODE(status.st_mode):04o}); "
            "it must have the mode 0600 or 0400"
        )


def is_exposed(mode: int, owner: int, reader: int) -> bool:
    """Whether a key with these permissions can be read by more than the user who needs it.

    A service that does not run as root gets at a file of root's through its group, or through an
    access control list (as with systemd's LoadCredential), whose mask stands in the bits of the
    group. PostgreSQL has the same rule.
    """
    return bool(mode & (0o037 if owner == 0 != reader else 0o077))


def _try_out(contexts: TlsContexts) -> dict[str, Any] | None:
    """Let the two ends meet in memory; return the certificate that was shown. Raises SSLError."""
    server = TlsSession(contexts.server, is_server=True)
    client = TlsSession(contexts.client, is_server=False)
    client.begin()
    server.receive(client.outgoing())
    client.receive(server.outgoing())
    server.receive(client.outgoing())
    return server.peer_certificate()
