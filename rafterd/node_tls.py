"""TLS of one node, towards other nodes and towards clients, as its configuration says.

The supervisor reads the files before it forks and after SIGHUP, so that one that cannot be used is
refused where somebody sees it; each shard inherits what was read, and reads again when it is told.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from rafter_transport.tls import PeerTls, TlsContexts, TlsError, TlsFiles, server_context
from rafter_transport.tls_session import TlsSession
from rafterd.config_schema import ClientSection, Config, PeerSection

__all__ = ["NodeTls", "TlsError", "TlsUpdate"]

CLIENT_TLS_VERSION_MIN = ssl.TLSVersion.TLSv1_2
"""Clients are older than nodes; 1.2 is the least that Redis accepts as well. With certificates of
clients it takes 1.3."""


class TlsUpdate(NamedTuple):
    """What `NodeTls.read` found in the files, ready to be used."""

    peer: TlsContexts | None
    client: ssl.SSLContext | None


class NodeTls:
    """What the connections of a node are secured with. `read` may run in any thread."""

    def __init__(self, config: Config) -> None:
        """Read the files that the configuration names. Raises TlsError."""
        self._peer_files = _files("peer", config.peer)
        self._client_files = _files("client", config.client)
        self.peer: PeerTls | None = None
        """None: links to other nodes are in the clear."""
        if self._peer_files is not None:
            self.peer = PeerTls(config.node.id, self._peer_files, config.peer.tls_name)
        self._client_context = self._read_client()

    @property
    def is_used(self) -> bool:
        """Whether there is anything to be read again."""
        return self._peer_files is not None or self._client_files is not None

    def read(self) -> TlsUpdate:
        """Read the files again. Raises TlsError. Nothing changes until `use`."""
        peer = None if self.peer is None else self.peer.read()
        return TlsUpdate(peer, self._read_client())

    def use(self, update: TlsUpdate) -> None:
        """Let new connections use what was read; those that are open stay as they are."""
        if self.peer is not None and update.peer is not None:
            self.peer.use(update.peer)
        self._client_context = update.client

    def client_session(self) -> TlsSession | None:
        """Return a session for a connection that a client has made; None: it is in the clear."""
        context = self._client_context
        return None if context is None else TlsSession(context, is_server=True)

    def _read_client(self) -> ssl.SSLContext | None:
        files = self._client_files
        if files is None:
            return None
        # TLS 1.2 lets a client resume a session without its certificate, which may no longer be
        # accepted by then.
        version = CLIENT_TLS_VERSION_MIN if files.ca is None else ssl.TLSVersion.TLSv1_3
        return server_context(files, version=version)


def _files(name: str, section: PeerSection | ClientSection) -> TlsFiles | None:
    if not section.has_tls:
        return None
    ca = Path(section.tls_ca) if section.tls_ca else None
    return TlsFiles(name, Path(section.tls_certificate), Path(section.tls_key), ca)
