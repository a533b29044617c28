"""The ports of one shard for clients: in the clear or with TLS, whose files are read again."""

import asyncio
import functools
import logging

from rafter_kv.connection import RespConnection
from rafter_transport.peer_log import PeerLog
from rafter_transport.tls_stream import TlsStream
from rafterd.boot import ShardBoot
from rafterd.client_front import ClientFront
from rafterd.node_tls import TlsError, TlsUpdate
from rafterd.shared import Counter

__all__ = ["ClientListeners"]

logger = logging.getLogger(__name__)

CLIENT_BACKLOG = 1024
CLIENT_HANDSHAKE_SECONDS = 10.0


class ClientListeners:
    """Accepts the clients of one shard. On its loop."""

    def __init__(
        self, boot: ShardBoot, front: ClientFront, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._boot = boot
        self._front = front
        self._loop = loop
        self._counters = boot.shared.counter_words(boot.shard)
        self._servers: list[asyncio.Server] = []
        self._log = PeerLog(logger)
        self._tls_reads = 0

    async def open(self) -> None:
        """Listen on the base port, together with the other shards, and on this shard's own.

        Raises OSError if one of them cannot be had.
        """
        client = self._boot.config.client
        for port, is_shared in ((client.port, True), (client.shard_port(self._boot.shard), False)):
            self._servers.append(
                await self._loop.create_server(
                    self._connect,
                    client.host,
                    port,
                    reuse_address=True,
                    reuse_port=is_shared,
                    backlog=CLIENT_BACKLOG,
                )
            )

    def close(self) -> None:
        """Accept nobody new; who is connected stays. May be called again."""
        for server in self._servers:
            server.close()

    def _connect(self) -> asyncio.Protocol:
        connection = RespConnection(self._front)
        session = self._boot.tls.client_session()
        if session is None:
            return connection
        return TlsStream(
            connection,
            session,
            handshake_seconds=CLIENT_HANDSHAKE_SECONDS,
            on_refused=self._refused,
            cleartext_answer=b"-ERR this port takes TLS connections only\r\n",
            loop=self._loop,
        )

    def _refused(self, host: str, reason: str) -> None:
        self._counters[Counter.CLIENT_TLS_REFUSED_TOTAL] += 1
        self._log.report(f"client at {host}", reason, f"connection refused: {reason}")

    def reload_tls(self) -> None:
        """Read the TLS files again, in a thread; new connections use what they say.

        That goes for connections with other nodes, too.
        """
        self._tls_reads += 1
        reading = self._loop.run_in_executor(None, self._boot.tls.read)
        reading.add_done_callback(functools.partial(self._tls_read, self._tls_reads))

    def _tls_read(self, number: int, reading: asyncio.Future[TlsUpdate]) -> None:
        if reading.cancelled() or number != self._tls_reads:
            return  # a later one is under way: what it finds is newer
        try:
            self._boot.tls.use(reading.result())
        except TlsError as error:
            # The supervisor could read them a moment ago.
            logger.error("TLS stays as it was: %s", error)
