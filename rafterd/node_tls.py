"""TLS of one node, towards other nodes and towards clients, as its configuration says.

The supervisor reads the files before it forks and after SIGHUP, so that one that cannot be used is
refused where somebody sees it; each shard inherits what was read, and reads again when it is told.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from rafter_transport.tls import PeerTls, TlsContexts, TlsError, TlsFiles, server_context
from rafterd.config_schema import ClientSection, Config, PeerSection

__all__ = ["NodeTls", "TlsError", "TlsUpdate"]

CLIENT_TLS_VERSION_MIN = ssl.TLSVersion.TLSv1_2
"""Clients are older than nodes; 1.2 is the least that Redis accepts as well."""


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
        self.client_context = self._read_client()
        """For a listener, which keeps it for good: what `use` was given last is what counts.
        None: clients speak in the clear."""
        self._client_latest = self.client_context
        if self.client_context is not None:
            # Called for each handshake, whether or not the client names a server.
            self.client_context.sni_callback = self._switch_to_latest

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
        if update.client is not None:
            self._client_latest = update.client

    def _read_client(self) -> ssl.SSLContext | None:
        if self._client_files is None:
            return None
        return server_context(self._client_files, version=CLIENT_TLS_VERSION_MIN)

    def _switch_to_latest(
        self, session: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _old: ssl.SSLContext
    ) -> None:
        assert self._client_latest is not None
        session.context = self._client_latest


def _files(name: str, section: PeerSection | ClientSection) -> TlsFiles | None:
    if not section.has_tls:
        return None
    ca = Path(section.tls_ca) if section.tls_ca else None
    return TlsFiles(name, Path(section.tls_certificate), Path(section.tls_key), ca)
