"""TLS between nodes: its files, and who is refused by whom on real sockets."""

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from rafter_transport import Channel
from rafter_transport.handshake import encode_hello
from rafter_transport.tls import PeerTls, TlsError, TlsFiles, check_name_pattern, is_exposed
from tests.transport.support import (
    CLUSTER_ID,
    HOST,
    QUICK,
    LogRecorder,
    Peer,
    RawPeer,
    addresses,
    every_loop,
    make_hello,
    run,
)
from tests.transport.tls_support import Authority, careless, until

# -- who is refused --------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def exchange(one: Peer, other: Peer) -> None:
    """Let two nodes send each other something."""
    for sender, receiver in ((one, other), (other, one)):
        await sender.until_up(receiver.hello.node_id)
        text = f"from {sender.hello.node_id}".encode()
        sender.send(receiver.hello.node_id, 0, Channel.RAFT, text)
        await until_received(receiver, text)


async def until_received(peer: Peer, text: bytes) -> None:
    await peer.recorder.until(lambda: text in peer.recorder.of(Channel.RAFT))


@every_loop
def test_nodes_with_certificates_of_one_authority_exchange_items(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        one = Peer(make_hello(1), nodes, tls=authority.tls(1))
        other = Peer(make_hello(2), nodes, tls=authority.tls(2))
        async with one, other:
            await exchange(one, other)
            # Large ones span many records, in both directions.
            for sender, node in ((one, 2), (other, 1)):
                sender.send(node, 0, Channel.RAFT, b"x" * 5_000_000, b"end")
            for receiver in (one, other):
                await until_received(receiver, b"end")
                assert b"x" * 5_000_000 in receiver.recorder.of(Channel.RAFT)
            for peer in (one, other):
                assert peer.exchanger.counters.tls_refused_total == 0
                assert peer.exchanger.counters.bad_frames_total == 0

    run(loop_kind, main())


REFUSED_DIALLERS: dict[str, Callable[[Authority], PeerTls | None]] = {
    "wrong CA": lambda a: careless(Authority(a.directory, "other").issue("node-2")),
    "expired": lambda a: careless(a.expired("node-2")),
    "not yet valid": lambda a: careless(a.future("node-2")),
    "of another node": lambda a: careless(a.issue("node-3")),
    "of a client": lambda a: careless(a.issue("app.example.org")),
    "of no name that is exact": lambda a: careless(a.issue("*.example.org")),
    "none": lambda a: careless(None),
    "TLS 1.2": lambda a: careless(a.issue("node-2"), highest=ssl.TLSVersion.TLSv1_2),
    "plaintext": lambda a: None,
}
REASONS = {
    "wrong CA": "unable to get local issuer|self-signed|signature failure",
    "expired": "certificate has expired",
    "not yet valid": "certificate is not yet valid",
    "of another node": "is not that of node 2: it must name 'node-2', and its DNS names are",
    "of a client": "is not that of node 2: .* 'app.example.org'",
    "of no name that is exact": r"is not that of node 2: .* '\*.example.org'",
    "none": "peer did not return a certificate",
    "TLS 1.2": "unsupported protocol",
    "plaintext": "the peer does not speak TLS here",
}


@every_loop
@pytest.mark.parametrize("kind", REFUSED_DIALLERS)
def test_a_dialler_that_is_not_the_node_it_says_is_refused_counted_and_logged_once(
    loop_kind: str, kind: str, authority: Authority
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        with LogRecorder() as log:
            server = Peer(make_hello(1), nodes | {2: (HOST, 1)}, tls=authority.tls(1))
            stranger = Peer(make_hello(2), nodes, tls=REFUSED_DIALLERS[kind](authority))
            counters = server.exchanger.counters
            async with server, stranger:
                await until(lambda: counters.tls_refused_total >= 3)
                assert counters.connections_accepted_total == 0
                assert stranger.recorder.states == []
                assert stranger.exchanger.counters.connect_failures_total >= 2
                assert server.recorder.states == []
        lines = [line for line in log.lines if line_matches(REASONS[kind], line)]
        # The stranger is not told by TLS itself why its name does not do, but by the handshake.
        ours = [line for line in lines if "cannot connect" not in line]
        assert len(ours) == 1, log.lines

    run(loop_kind, main())


def line_matches(pattern: str, line: str) -> bool:
    return re.search(pattern, line) is not None


REFUSED_ACCEPTORS = {
    kind: make for kind, make in REFUSED_DIALLERS.items() if kind not in ("none", "plaintext")
}


@every_loop
@pytest.mark.parametrize("kind", REFUSED_ACCEPTORS)
def test_an_acceptor_that_is_not_the_node_that_was_dialled_hears_no_hello(
    loop_kind: str, kind: str, authority: Authority
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        with LogRecorder() as log:
            impostor = Peer(
                make_hello(2), nodes | {1: (HOST, 1)}, tls=REFUSED_ACCEPTORS[kind](authority)
            )
            dialler = Peer(make_hello(1), nodes, tls=authority.tls(1))
            async with impostor, dialler:
                await until(lambda: dialler.exchanger.counters.tls_refused_total >= 3)
                assert dialler.recorder.states == []
                assert impostor.exchanger.counters.connections_accepted_total == 0
                assert impostor.exchanger.counters.handshakes_refused_total == 0
        ours = [line for line in log.lines if line.startswith("node 2 shard 0: cannot connect")]
        assert len(ours) == 1, log.lines
        reason = "alert protocol version" if kind == "TLS 1.2" else REASONS[kind]
        assert line_matches(reason, ours[0]), ours

    run(loop_kind, main())


@every_loop
def test_a_node_with_tls_gives_up_on_a_plaintext_port_and_says_why(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        with LogRecorder() as log:
            plain = Peer(make_hello(2), nodes | {1: (HOST, 1)})
            dialler = Peer(make_hello(1), nodes, tls=authority.tls(1))
            async with plain, dialler:
                line = await log.until("during the TLS handshake (does it speak TLS?)")
                assert line.startswith("node 2 shard 0: cannot connect")
                await log.until("the peer speaks TLS, and this end does not")
                assert plain.exchanger.counters.tls_refused_total >= 1
                assert plain.exchanger.counters.connections_accepted_total == 0
                assert dialler.exchanger.counters.connect_failures_total >= 1
                assert dialler.recorder.states == []

    run(loop_kind, main())


@every_loop
def test_another_cluster_is_refused_by_its_id_and_by_its_names(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        pattern = "node-{id}.blue"
        # A liar, that knows the cluster's id, has the wrong certificate still.
        honest = (5, authority.tls(2, pattern), "other cluster")
        liar = (CLUSTER_ID, careless(authority.issue("node-2.green")), "must name 'node-2.blue'")
        for cluster_id, tls, reason in (honest, liar):
            with LogRecorder() as log:
                server = Peer(make_hello(1), nodes | {2: (HOST, 1)}, tls=authority.tls(1, pattern))
                other = Peer(make_hello(2, cluster_id=cluster_id), nodes, tls=tls)
                async with server, other:
                    await log.until(reason)
                    assert server.recorder.states == []
                    assert server.exchanger.counters.connections_accepted_total == 0
                    assert server.exchanger.counters.handshakes_refused_total >= 1

    run(loop_kind, main())


# -- what is bounded -------------------------------------------------------------------------


@every_loop
def test_strangers_in_the_middle_of_tls_are_counted_bounded_and_ended_at_the_deadline(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        limits = QUICK._replace(handshaking_max=3, handshake_seconds=0.1)
        with LogRecorder() as log:
            async with Peer(
                make_hello(1), addresses(1), limits=limits, tls=authority.tls(1)
            ) as peer:
                silent = [await RawPeer.dial(peer.port) for _ in range(3)]
                # The beginning of a record that never ends.
                silent[0].writer.write(b"\x16\x03\x01\x10\x00abc")
                turned_away = await RawPeer.dial(peer.port)
                await turned_away.until_closed()
                assert peer.exchanger.counters.connections_over_limit_total == 1
                for raw in silent:
                    await raw.until_closed()
                assert "no handshake in time" in log.lines[-1]
                for raw in (*silent, turned_away):
                    await raw.close()

    run(loop_kind, main())


@every_loop
def test_a_node_that_ends_tls_and_then_says_nothing_is_ended_at_the_same_deadline(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        limits = QUICK._replace(handshake_seconds=0.1)
        context = authority.tls(2).read().client
        async with Peer(make_hello(1), addresses(1), limits=limits, tls=authority.tls(1)) as peer:
            raw = RawPeer(*await asyncio.open_connection(HOST, peer.port, ssl=context))
            assert raw.writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            await raw.until_closed()
            with contextlib.suppress(ssl.SSLError):
                await raw.close()

    run(loop_kind, main())


@every_loop
def test_a_hello_in_the_same_bytes_as_the_end_of_tls_is_taken(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        async with Peer(make_hello(1), addresses(1, 2), tls=authority.tls(1)) as peer:
            session = authority.tls(2).session(is_server=False)
            raw = await RawPeer.dial(peer.port)
            session.begin()
            raw.writer.write(session.outgoing())
            while not session.is_secure:
                session.receive(await raw.reader.read(65536))
            payload = encode_hello(make_hello(2))
            session.seal(len(payload).to_bytes(4, "little") + payload)
            raw.writer.write(session.outgoing())
            assert b"rafter" in session.receive(await raw.reader.read(65536))
            # An orderly end of TLS ends the connection.
            session.end()
            raw.writer.write(session.outgoing())
            await raw.until_closed()
            await raw.close()

    run(loop_kind, main())


# -- reloading -------------------------------------------------------------------------------


@every_loop
def test_new_connections_use_the_new_certificates_and_open_ones_stay(
    loop_kind: str, authority: Authority
) -> None:
    async def main() -> None:
        nodes = addresses(1, 2)
        tls = {node: authority.tls(node) for node in nodes}
        one = Peer(make_hello(1), nodes, tls=tls[1])
        other = Peer(make_hello(2), nodes, tls=tls[2])
        async with one, other:
            await exchange(one, other)
            new = Authority(authority.directory)  # in the place of the old one
            new.issue("node-1")
            tls[1].reload()
            one.send(2, 0, Channel.RAFT, b"still here")
            await other.recorder.until(lambda: b"still here" in other.recorder.of(Channel.RAFT))
            assert one.recorder.states == [(2, 0, True)]
            # Node 2 still shows the old one, so it cannot come back before it reloads as well.
            for peer_link, _ in list(one.exchanger._peer_links.values()):
                assert peer_link.socket_link is not None
                peer_link.socket_link.abort()
            await one.until_down(2)
            await until(lambda: one.exchanger.counters.tls_refused_total > 0)
            assert not one.exchanger.is_up(2, 0)
            new.issue("node-2")
            tls[2].reload()
            await one.until_up(2)
            one.send(2, 0, Channel.RAFT, b"again")
            await other.recorder.until(lambda: b"again" in other.recorder.of(Channel.RAFT))

    run(loop_kind, main())


def spoil_key_mode(authority: Authority, files: TlsFiles) -> None:
    files.key.chmod(0o640)


def remove_ca(authority: Authority, files: TlsFiles) -> None:
    assert files.ca is not None
    files.ca.unlink()


def empty_ca(authority: Authority, files: TlsFiles) -> None:
    assert files.ca is not None
    files.ca.write_bytes(b"")


def other_ca(authority: Authority, files: TlsFiles) -> None:
    assert files.ca is not None
    files.ca.write_bytes(Authority(authority.directory, "other").ca.read_bytes())


def other_key(authority: Authority, files: TlsFiles) -> None:
    _, key = authority.issue("node-9")
    os.replace(key, files.key)


def other_name(authority: Authority, files: TlsFiles) -> None:
    certificate, key = authority.issue("node-9")
    os.replace(key, files.key)
    os.replace(certificate, files.certificate)


def expire(authority: Authority, files: TlsFiles) -> None:
    certificate, key = authority.expired("node-1")
    os.replace(key, files.key)
    os.replace(certificate, files.certificate)


def garble(authority: Authority, files: TlsFiles) -> None:
    files.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def make_directory(authority: Authority, files: TlsFiles) -> None:
    files.certificate.unlink()
    files.certificate.mkdir()


def make_pipe(authority: Authority, files: TlsFiles) -> None:
    files.certificate.unlink()
    os.mkfifo(files.certificate)


def encrypt_key(authority: Authority, files: TlsFiles) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


SPOILS = [
    (spoil_key_mode, r"^peer.tls_key = .*node-1.key: others than its owner .* \(mode 0640\)"),
    (remove_ca, r"^peer.tls_ca = .*ca.pem: cannot be read: No such file or directory$"),
    (empty_ca, r"^peer.tls_ca = .*ca.pem: it holds no certificate"),
    (other_ca, r"^peer.tls_certificate = .*: other nodes would refuse it, .*issuer|signature"),
    (other_key, r"^peer.tls_key = .*node-1.key: it is not the key of .*node-1.crt$"),
    (other_name, r"^peer.tls_certificate = .*must name 'node-1', .* names are 'node-9'$"),
    (expire, r"^peer.tls_certificate = .*: other nodes would refuse it, .*: certificate has exp"),
    (garble, r"^peer.tls_certificate = .*node-1.crt, .*: not a certificate and its key \(PEM\)"),
    (make_directory, r"^peer.tls_certificate = .*node-1.crt: is not a file$"),
    (make_pipe, r"^peer.tls_certificate = .*node-1.crt: is not a file$"),
    (encrypt_key, r"^peer.tls_key = .*node-1.key: the key has a passphrase"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "text"), SPOILS, ids=[row[0].__name__ for row in SPOILS])
def test_files_that_cannot_be_used_are_named_and_the_old_ones_stay_in_use(
    authority: Authority, spoil: Callable[[Authority, TlsFiles], None], text: str
) -> None:
    files = authority.files("node-1")
    tls = PeerTls(1, files)
    contexts = tls._contexts
    spoil(authority, files)
    with pytest.raises(TlsError, match=text):
        tls.reload()
    assert tls._contexts is contexts
    with pytest.raises(TlsError, match=text):
        PeerTls(1, files)


def test_a_key_that_only_its_owner_reads_is_taken(authority: Authority) -> None:
    files = authority.files("node-1")
    for mode in (0o600, 0o400):
        files.key.chmod(mode)
        PeerTls(1, files)


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "is_refused"),
    [
        (0o600, 1000, 1000, False),
        (0o640, 1000, 1000, True),
        (0o604, 1000, 1000, True),
        (0o640, 1001, 1000, True),
        (0o640, 0, 0, True),
        # Of root, for a service that is in the group.
        (0o640, 0, 1000, False),
        (0o440, 0, 1000, False),
        (0o660, 0, 1000, True),
        (0o644, 0, 1000, True),
    ],
)
def test_a_key_is_for_its_owner_or_from_root_for_one_group(
    mode: int, owner: int, reader: int, is_refused: bool
) -> None:
    assert is_exposed(mode, owner, reader) is is_refused


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["node-{id}", "{id}.nodes.example.org", "Node_{id}"])
def test_a_pattern_of_names_has_the_id_once(pattern: str) -> None:
    assert check_name_pattern(pattern) is None


@pytest.mark.parametrize(
    "pattern", ["", "node", "{id}{id}", "node-{id} ", "node-{0}{id}", "*-{id}", "x" * 250 + "{id}"]
)
def test_a_pattern_that_names_no_host_is_refused(pattern: str, authority: Authority) -> None:
    assert check_name_pattern(pattern) is not None
    with pytest.raises(ValueError, match="name pattern"):
        PeerTls(1, authority.files("node-1"), pattern)


def test_peers_without_an_authority_are_a_programming_error(authority: Authority) -> None:
    with pytest.raises(ValueError, match="need a certificate authority"):
        PeerTls(1, authority.files("node-1")._replace(ca=None))


@pytest.mark.parametrize(
    ("names", "is_node"),
    [
        (("node-2",), True),
        (("NODE-2",), True),
        (("db.example.org", "node-2"), True),
        (("node-22",), False),
        (("node-2.example.org",), False),
        (("*",), False),
        ((), False),
    ],
)
def test_a_certificate_is_a_nodes_if_one_of_its_names_is_exactly_the_nodes(
    authority: Authority, names: tuple[str, ...], is_node: bool
) -> None:
    tls = authority.tls(1)
    certificate = {
        "subject": ((("commonName", "node-2"),),),
        "subjectAltName": (("URI", "node-2"), *(("DNS", name) for name in names)),
    }
    assert (tls.check(certificate, 2) is None) is is_node
    assert tls.check({}, 2) is not None
    assert tls.check(None, 2) is not None
