"""TLS sessions in memory: two ends and the bytes between them."""

import random
import ssl
from pathlib import Path

import pytest

from rafter_transport.tls_session import TlsSession, describe
from tests.transport.tls_support import Authority


@pytest.fixture
def ends(tmp_path: Path) -> tuple[TlsSession, TlsSession]:
    """The dialling end and the accepting one."""
    authority = Authority(tmp_path)
    return authority.tls(1).session(is_server=False), authority.tls(2).session(is_server=True)


def carry(one: TlsSession, other: TlsSession) -> bytes:
    return other.receive(one.outgoing())


def shake(client: TlsSession, server: TlsSession) -> None:
    client.begin()
    server.begin()
    carry(client, server)
    carry(server, client)
    assert client.is_secure
    assert not server.is_secure
    assert server.peer_certificate() is None
    carry(client, server)
    assert server.is_secure


def test_both_ends_know_each_other_after_the_handshake(
    ends: tuple[TlsSession, TlsSession],
) -> None:
    client, server = ends
    shake(client, server)
    for end, name in ((client, "node-2"), (server, "node-1")):
        certificate = end.peer_certificate()
        assert certificate is not None
        assert certificate["subjectAltName"] == (("DNS", name),)
        assert end.version() == "TLSv1.3"
    assert server.outgoing() == b"", "no tickets: nothing follows the handshake"


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 1_000_000])
def test_what_is_sealed_arrives_however_it_is_cut(
    ends: tuple[TlsSession, TlsSession], size: int
) -> None:
    client, server = ends
    shake(client, server)
    generator = random.Random(size)
    data = generator.randbytes(size)
    for one, other in (ends, ends[::-1]):
        one.seal(data)
        wire = one.outgoing()
        arrived = b""
        while wire:
            cut = generator.randint(1, 50_000)
            arrived += other.receive(wire[:cut])
            wire = wire[cut:]
        assert arrived == data


def test_the_end_is_told_and_what_came_before_it_is_delivered(
    ends: tuple[TlsSession, TlsSession],
) -> None:
    client, server = ends
    shake(client, server)
    client.seal(b"last")
    client.end()
    assert carry(client, server) == b"last"
    assert server.is_ended


def test_an_end_in_the_middle_of_the_handshake_says_nothing(
    ends: tuple[TlsSession, TlsSession],
) -> None:
    client, server = ends
    client.begin()
    client.outgoing()
    client.end()
    server.end()
    assert server.outgoing() == b""


def test_a_changed_byte_ends_the_session(ends: tuple[TlsSession, TlsSession]) -> None:
    client, server = ends
    shake(client, server)
    client.seal(b"x" * 100)
    wire = bytearray(client.outgoing())
    wire[50] ^= 1
    with pytest.raises(ssl.SSLError) as caught:
        server.receive(bytes(wire))
    assert describe(caught.value) == "TLS: decryption failed or bad record mac"
    assert server.outgoing(), "the alert for the peer"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x20\x00\x00\x00" + b"x" * 32])
def test_plaintext_is_recognized(ends: tuple[TlsSession, TlsSession], data: bytes) -> None:
    for end in ends:
        with pytest.raises(ssl.SSLError) as caught:
            end.receive(data)
        assert describe(caught.value).startswith("the peer does not speak TLS here")


def test_an_alert_is_told_in_words(ends: tuple[TlsSession, TlsSession], tmp_path: Path) -> None:
    client, _ = ends
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").tls(2).session(is_server=True)
    client.begin()
    carry(client, stranger)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        carry(stranger, client)
    assert describe(caught.value).startswith("the peer's certificate is not accepted: ")
    with pytest.raises(ssl.SSLError) as alert:
        carry(client, stranger)
    assert describe(alert.value) == "refused by the peer: TLS alert unknown ca"
