"""TLS under the protocol of an accepted connection, over real sockets."""

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import Self, cast

import pytest

from rafter_transport.tls_session import TlsSession
from rafter_transport.tls_stream import TlsStream
from tests.transport.support import DEADLINE_SECONDS, HOST, RawPeer, every_loop, run
from tests.transport.tls_support import Authority, until

CLEARTEXT_ANSWER = b"-ERR not without TLS\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class Recorder(asyncio.Protocol):
    """The protocol of an accepted connection: it records its calls."""

    def __init__(self, *, keeps_half_open: bool = True) -> None:
        self.calls: list[str] = []
        self.received = b""
        self._keeps_half_open = keeps_half_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(b"lost, as it is too early")

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self._keeps_half_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, _error: Exception | None) -> None:
        self.calls.append("lost")


class Server:
    """A listener whose connections are secured."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        handshake_seconds: float = DEADLINE_SECONDS,
        keeps_half_open: bool = True,
    ) -> None:
        self.context = context
        self.protocols: list[Recorder] = []
        self.refused: list[tuple[str, str]] = []
        self._handshake_seconds = handshake_seconds
        self._keeps_half_open = keeps_half_open

    def _accept(self) -> TlsStream:
        self.protocols.append(Recorder(keeps_half_open=self._keeps_half_open))
        return TlsStream(
            self.protocols[-1],
            TlsSession(self.context, is_server=True),
            handshake_seconds=self._handshake_seconds,
            on_refused=lambda host, reason: self.refused.append((host, reason)),
            cleartext_answer=CLEARTEXT_ANSWER,
            loop=asyncio.get_running_loop(),
        )

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for protocol in self.protocols:
            protocol.transport.abort()
        await until(lambda: all(each.calls[-1] == "lost" for each in self.protocols))
        await self._server.wait_closed()

    @property
    def protocol(self) -> Recorder:
        return self.protocols[-1]


def contexts(authority: Authority, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    """Return the context of a client, which is a node that takes any other."""
    context = authority.tls(1).read().client
    for name, version in versions.items():
        setattr(context, name, version)
    return context


def server_context(authority: Authority) -> ssl.SSLContext:
    return authority.tls(2).read().server


class Client:
    """The other end, in the hands of the test."""

    def __init__(self, raw: RawPeer, context: ssl.SSLContext) -> None:
        self.raw = raw
        self.session = TlsSession(context, is_server=False)
        self.session.begin()
        self.heard = b""

    @classmethod
    async def connect(cls, server: Server, context: ssl.SSLContext) -> "Client":
        client = cls(await RawPeer.dial(server.port), context)
        try:
            while not client.session.is_secure:
                client.flush()
                await client.listen()
        except BaseException:
            await client.close()
            raise
        client.flush()
        return client

    def flush(self) -> None:
        self.raw.writer.write(self.session.outgoing())

    def say(self, data: bytes) -> None:
        self.session.seal(data)
        self.flush()

    async def listen(self) -> bool:
        """Take one chunk; tell whether there was any."""
        data = await self.raw.reader.read(65536)
        self.heard += self.session.receive(data)
        return bool(data)

    async def listen_to_the_end(self) -> bytes:
        while await self.listen():
            pass
        return self.heard

    async def close(self) -> None:
        await self.raw.close()


@every_loop
@pytest.mark.parametrize("size", [1, 16384, 2_000_000])
def test_bytes_pass_in_both_directions(loop_kind: str, size: int, authority: Authority) -> None:
    async def main() -> None:
        async with Server(server_context(authority)) as server:
            client = await Client.connect(server, contexts(authority))
            data = bytes(range(251)) * (size // 251 + 1)
            client.say(data)
            protocol = server.protocol
            await until(lambda: protocol.received == data)
            protocol.transport.write(data)
            protocol.transport.write_eof()
            assert await client.listen_to_the_end() == data
            assert client.session.is_ended
            await client.close()
            await until(lambda: protocol.calls == ["made", "lost"])
            assert server.refused == []

    run(loop_kind, main())


@every_loop
def test_a_connection_counts_from_the_accept_on(loop_kind: str, authority: Authority) -> None:
    async def main() -> None:
        async with Server(server_context(authority)) as server:
            raw = await RawPeer.dial(server.port)
            await until(lambda: len(server.protocols) == 1)
            assert server.protocol.calls == ["made"]
            assert server.protocol.transport.get_extra_info("peername")[0] == HOST
            await raw.close()
            # Who leaves without a word was not refused.
            await until(lambda: server.protocol.calls == ["made", "lost"])
            assert server.refused == []

    run(loop_kind, main())


@every_loop
def test_a_connection_may_be_closed_before_its_handshake(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        async with Server(server_context(authority)) as server:
            for end in ("close", "abort", "write_eof"):
                raw = await RawPeer.dial(server.port)
                await until(lambda: server.protocols != [] and "lost" not in server.protocol.calls)
                getattr(server.protocol.transport, end)()
                await raw.until_closed()
                await raw.close()
                await until(lambda: server.protocol.calls == ["made", "lost"])
            assert server.refused == []

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("beginning", [b"", b"\x16", b"\x16\x03\x01\x10\x00abc"])
def test_a_handshake_that_takes_too_long_is_ended_and_told(
    loop_kind: str, beginning: bytes, authority: Authority
) -> None:
    async def main() -> None:
        async with Server(server_context(authority), handshake_seconds=0.05) as server:
            raw = await RawPeer.dial(server.port)
            raw.writer.write(beginning)
            await raw.until_closed()
            await raw.close()
            await until(lambda: server.protocol.calls == ["made", "lost"])
            assert server.refused == [(HOST, "no TLS handshake in time")]

    run(loop_kind, main())


@every_loop
def test_a_finished_handshake_has_no_deadline(loop_kind: str, authority: Authority) -> None:
    async def main() -> None:
        async with Server(server_context(authority), handshake_seconds=0.5) as server:
            client = await Client.connect(server, contexts(authority))
            client.say(b"first")
            await until(lambda: server.protocol.received == b"first")
            silent = await RawPeer.dial(server.port)
            await silent.until_closed()  # accepted later, and at its deadline by now
            await silent.close()
            client.say(b", second")
            await until(lambda: server.protocols[0].received == b"first, second")
            await client.close()

    run(loop_kind, main())


@every_loop
def test_whoever_does_not_speak_tls_is_told_so(loop_kind: str, authority: Authority) -> None:
    async def main() -> None:
        async with Server(server_context(authority)) as server:
            for request in (b"*1\r\n$4\r\nPING\r\n", b"PING\r\n", b"GET / HTTP/1.1\r\n\r\n"):
                raw = await RawPeer.dial(server.port)
                raw.writer.write(request * 1000)
                assert await raw.reader.read() == CLEARTEXT_ANSWER
                await raw.close()
                await until(lambda: server.protocol.calls == ["made", "lost"])
            assert server.refused == [(HOST, "the peer does not speak TLS here")] * 3

    run(loop_kind, main())


@every_loop
def test_a_refused_client_that_has_sent_its_request_already_reads_why(
    loop_kind: str, authority: Authority, tmp_path: Path
) -> None:
    async def main() -> None:
        stranger = Authority(tmp_path, "stranger")
        context = contexts(authority)
        context.load_cert_chain(*stranger.issue("app"))
        async with Server(server_context(authority)) as server:
            client = await Client.connect(server, context)
            client.say(b"request" * 100_000)
            with pytest.raises(ssl.SSLError, match="ALERT_UNKNOWN_CA"):
                await client.listen_to_the_end()
            await client.close()
            protocol = server.protocol
            await until(lambda: protocol.calls == ["made", "lost"])
            assert protocol.received == b""
            ((host, reason),) = server.refused
            assert host == HOST
            assert reason.startswith("the peer's certificate is not accepted: ")

    run(loop_kind, main())


@every_loop
def test_an_older_version_is_refused(loop_kind: str, authority: Authority) -> None:
    async def main() -> None:
        context = contexts(
            authority,
            minimum_version=ssl.TLSVersion.TLSv1_2,
            maximum_version=ssl.TLSVersion.TLSv1_2,
        )
        async with Server(server_context(authority)) as server:
            with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
                await Client.connect(server, context)
            assert server.refused == [(HOST, "TLS: unsupported protocol")]

    run(loop_kind, main())


@every_loop
def test_a_changed_byte_ends_the_connection_and_nothing_is_sent_after_it(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        async with Server(server_context(authority)) as server:
            client = await Client.connect(server, contexts(authority))
            client.say(b"first")
            protocol = server.protocol
            await until(lambda: protocol.received == b"first")
            client.session.seal(b"second")
            wire = bytearray(client.session.outgoing())
            wire[-1] ^= 1
            client.raw.writer.write(bytes(wire))
            await until(lambda: server.refused != [])
            # An answer that comes now is lost, and so is everything else.
            for _ in range(2):
                protocol.transport.write(b"answer")
                protocol.transport.write_eof()
            with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
                await client.listen_to_the_end()
            assert client.heard == b""
            assert protocol.received == b"first"
            await client.close()
            await until(lambda: protocol.calls == ["made", "lost"])
            assert server.refused == [(HOST, "TLS: decryption failed or bad record mac")]

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("is_announced", [True, False])
def test_after_the_end_of_the_peers_half_answers_still_go_out(
    loop_kind: str, is_announced: bool, authority: Authority
) -> None:
    async def main() -> None:
        async with Server(server_context(authority)) as server:
            client = await Client.connect(server, contexts(authority))
            client.say(b"request")
            if is_announced:
                client.session.end()
                client.flush()
                # Nobody shall keep what comes behind the end.
                client.raw.writer.write(b"\x17\x03\x03\x40\x00" + b"x" * 300_000)
            client.raw.writer.write_eof()
            protocol = server.protocol
            await until(lambda: protocol.calls == ["made", "eof"])
            assert protocol.received == b"request"
            protocol.transport.write(b"answer")
            protocol.transport.close()
            with contextlib.suppress(ConnectionError):  # what was not read resets the connection
                await client.listen_to_the_end()
            assert client.heard == b"answer"
            await client.close()

    run(loop_kind, main())


@every_loop
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_protocol_that_does_not_object_is_closed_at_the_end(
    loop_kind: str, is_announced: bool, authority: Authority
) -> None:
    async def main() -> None:
        async with Server(server_context(authority), keeps_half_open=False) as server:
            client = await Client.connect(server, contexts(authority))
            client.say(b"request")
            if is_announced:
                client.session.end()
                client.flush()
            else:
                client.raw.writer.write_eof()
            await client.listen_to_the_end()
            await until(lambda: server.protocol.calls == ["made", "eof", "lost"])
            assert server.protocol.received == b"request"
            await client.close()

    run(loop_kind, main())


@every_loop
def test_a_client_that_does_not_read_pauses_the_protocol(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        async with Server(server_context(authority)) as server:
            client = await Client.connect(server, contexts(authority))
            protocol = server.protocol
            transport = protocol.transport
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, 65536
            )
            transport.set_write_buffer_limits(high=100_000)
            await until(lambda: bool(client.session.is_secure))
            client.say(b"go")
            await until(lambda: protocol.received == b"go")
            sent = 0
            while "pause" not in protocol.calls:
                transport.write(b"x" * 100_000)
                sent += 100_000
            assert transport.get_write_buffer_size() > 100_000
            while len(client.heard) < sent:
                await client.listen()
            await until(lambda: "resume" in protocol.calls)
            assert transport.get_write_buffer_size() == 0
            # The other direction: what is not wanted stays with the operating system.
            transport.pause_reading()
            client.say(b"more")
            client.raw.writer.write(b"")
            transport.write(b"mark")
            while not client.heard.endswith(b"mark"):
                await client.listen()
            assert protocol.received == b"go"
            transport.resume_reading()
            await until(lambda: protocol.received == b"gomore")
            await client.close()

    run(loop_kind, main())
