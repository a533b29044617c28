"""The handshake's frames and its judgement."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafter_transport import HandshakeError, HandshakeRefusedError, Hello, Refusal
from rafter_transport.handshake import (
    ADDRESS_VERSION,
    Lane,
    check,
    common_version,
    decode_answer,
    decode_hello,
    encode_accepted,
    encode_hello,
    encode_refused,
)
from tests.transport.support import make_hello

u64 = st.integers(0, (1 << 64) - 1)
hosts = st.from_regex(r"[A-Za-z0-9._:%-]{1,255}", fullmatch=True)
peer_addresses = st.just(("", 0)) | st.tuples(hosts, st.integers(1, 64512))


def build_hello(
    versions: tuple[int, int], shards: tuple[int, int], peer: tuple[str, int], **fields: Any
) -> Hello:
    peer_host, peer_port = peer if max(versions) >= ADDRESS_VERSION else ("", 0)
    return Hello(
        version_min=min(versions), version_max=max(versions),
        shard=min(shards), shards=max(shards) + 1,
        peer_host=peer_host, peer_port=peer_port, **fields,
    )  # fmt: skip


hellos = st.builds(
    build_hello,
    peer=peer_addresses,
    versions=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    shards=st.tuples(st.integers(0, 1023), st.integers(0, 1023)),
    cluster_id=u64,
    node_id=st.integers(1, 65535),
    incarnation=u64,
    client_host=st.from_regex(r"[A-Za-z0-9._:%-]{0,255}", fullmatch=True),
    client_port=st.integers(0, 65535),
)  # fmt: skip


@given(hellos)
def test_a_hello_is_read_as_it_was_written(hello: Hello) -> None:
    assert decode_hello(encode_hello(hello)) == hello
    assert decode_answer(encode_accepted(hello)) == hello
    assert len(encode_hello(hello)) < 4096


@given(st.binary(max_size=100))
def test_any_bytes_give_a_handshake_error(data: bytes) -> None:
    for decode in (decode_hello, decode_answer):
        with pytest.raises(HandshakeError):
            decode(data)


@given(hellos, st.data())
def test_a_damaged_hello_is_a_hello_or_a_handshake_error(hello: Hello, data: st.DataObject) -> None:
    damaged = bytearray(encode_hello(hello))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for payload in (bytes(damaged), bytes(damaged[:cut])):
        try:
            decoded = decode_hello(payload)
        except HandshakeError:
            continue
        assert decode_hello(encode_hello(decoded)) == decoded


values = st.none() | st.booleans() | st.integers(-5, 70000) | st.floats() | st.text() | st.binary()


@given(st.lists(values | st.lists(values), max_size=15))
def test_any_fields_behind_the_magic_give_a_hello_or_a_handshake_error(fields: list[Any]) -> None:
    payload = msgpack.packb(["rafter", 1, *fields])
    try:
        decoded = decode_hello(payload)
    except HandshakeError:
        return
    assert decode_hello(encode_hello(decoded)) == decoded


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version_min", 0), ("version_max", 0), ("cluster_id", -1), ("node_id", 0),
        ("node_id", 65536), ("node_id", True), ("node_id", 1.0), ("node_id", "1"),
        ("incarnation", None), ("shards", 0), ("shards", 1025), ("shard", 1), ("shard", -1),
        ("client_port", 65536), ("client_port", b"1"), ("client_host", b"host"),
        ("client_host", "a\r\nb"), ("client_host", "a b"), ("client_host", "x" * 256),
        ("client_host", None), ("peer_port", -1), ("peer_port", 65536), ("peer_port", 0),
        ("peer_port", "1"), ("peer_port", None), ("peer_host", ""), ("peer_host", b"host"),
        ("peer_host", "a b"), ("peer_host", "x" * 256), ("peer_host", None),
    ],
)  # fmt: skip
def test_a_field_out_of_range_is_refused_in_both_directions(name: str, value: Any) -> None:
    right = make_hello(version_max=3, peer_host="peer.example", peer_port=65535)
    assert decode_hello(encode_hello(right)) == right
    wrong = right._replace(**{name: value})
    with pytest.raises(HandshakeError):
        encode_hello(wrong)
    with pytest.raises(HandshakeError):
        decode_hello(msgpack.packb(["rafter", 1, *wrong]))


def test_an_announced_port_leaves_room_for_every_shard() -> None:
    room = make_hello(version_max=3, shards=4, peer_host="peer.example", peer_port=65532)
    assert decode_hello(encode_hello(room)) == room
    with pytest.raises(HandshakeError, match="peer_port = 65533: must be from 0 to 65532"):
        encode_hello(room._replace(peer_port=65533))


def test_fields_may_be_appended_by_later_versions_only() -> None:
    later = make_hello(version_max=4)
    assert decode_hello(msgpack.packb(["rafter", 1, *later, "new field"])) == later
    for version, count in ((1, 9), (2, 10), (3, 12)):
        fields = [*make_hello(version_max=version)[:count]]
        assert decode_hello(msgpack.packb(["rafter", 1, *fields])).version_max == version
        with pytest.raises(
            HandshakeError,
            match=f"hello with {count + 1} fields, but version {version} has {count}",
        ):
            decode_hello(msgpack.packb(["rafter", 1, *fields, "new field"]))
        with pytest.raises(
            HandshakeError, match=f"hello with {count - 1} fields, expected {count}"
        ):
            decode_hello(msgpack.packb(["rafter", 1, *fields[:-1]]))


def test_version_2_tells_no_peer_address() -> None:
    assert len(msgpack.unpackb(encode_hello(make_hello(version_max=2)))) == 2 + 10
    with pytest.raises(HandshakeError, match="peer_port = 5: must be from 0 to 0"):
        encode_hello(make_hello(version_max=2, peer_host="peer.example", peer_port=5))


def test_version_1_has_no_lane_on_the_wire_and_only_the_exchangers() -> None:
    assert msgpack.unpackb(encode_hello(make_hello()))[2:] == [*make_hello()[:9]]
    assert decode_hello(encode_hello(make_hello())).lane == Lane.EXCHANGE
    with pytest.raises(HandshakeError, match="lane = 1: must be from 0 to 0"):
        encode_hello(make_hello(lane=Lane.EXPRESS))


def test_a_lane_is_read_as_it_was_written_even_if_it_is_unknown() -> None:
    for lane in (0, Lane.EXPRESS, 200):
        hello = make_hello(version_max=2, lane=lane)
        assert decode_hello(encode_hello(hello)).lane == lane
    wrong_lanes: tuple[Any, ...] = (-1, 256, "1", None, True, 1.0)
    for wrong_lane in wrong_lanes:
        wrong = make_hello(version_max=2, lane=wrong_lane)
        with pytest.raises(HandshakeError):
            encode_hello(wrong)
        with pytest.raises(HandshakeError):
            decode_hello(msgpack.packb(["rafter", 1, *wrong[:10]]))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, None),
        ({"version_min": 2, "version_max": 3}, "version"),
        ({"version_min": 1, "version_max": 3}, None),
        ({"cluster_id": 5}, "cluster"),
        ({"node_id": 1}, "own-node"),
    ],
)
def test_what_two_ends_refuse_in_each_other(changes: dict[str, int], code: str | None) -> None:
    refusal = check(make_hello(1), make_hello(2, **changes))
    assert (refusal and refusal.code) == code


def test_a_dialled_shard_must_be_the_one_that_answers() -> None:
    remote = make_hello(2, shard=1, shards=2)
    assert check(make_hello(1), remote, expected=(2, 1)) is None
    for expected in ((2, 0), (3, 1)):
        refusal = check(make_hello(1), remote, expected=expected)
        assert refusal is not None
        assert refusal.code == "other-peer"
        assert "but node 2 shard 1 answers" in refusal.text


def test_versions_that_overlap_agree_on_the_highest_common_one() -> None:
    older, newer = make_hello(1), make_hello(2, version_max=2)
    assert check(older, newer) is None
    assert common_version(older, newer) == common_version(newer, older) == 1
    assert common_version(newer, newer) == 2


def test_a_refusal_carries_its_reason() -> None:
    refusal = Refusal("cluster", "other cluster: the peer has …")
    with pytest.raises(HandshakeRefusedError, match="refused by the peer: other cluster") as caught:
        decode_answer(encode_refused(refusal))
    assert caught.value.refusal == refusal
    assert caught.value.code == "cluster"
    assert str(refusal) == refusal.text


@pytest.mark.parametrize(
    "fields", [[], ["code"], ["code", b"text"], ["code", "a\nb"], ["code", "x" * 513], [1, "text"]]
)
def test_a_reason_that_should_not_be_logged_is_not(fields: list[Any]) -> None:
    with pytest.raises(HandshakeError, match="without a readable reason"):
        decode_answer(msgpack.packb(["rafter", 3, *fields]))


def test_a_long_reason_is_cut_to_what_the_peer_accepts() -> None:
    with pytest.raises(HandshakeRefusedError):
        decode_answer(encode_refused(Refusal("code", "x" * 5000)))


def test_an_answer_is_no_hello_and_a_hello_no_answer() -> None:
    # What a TCP connection to itself would deliver.
    with pytest.raises(HandshakeError, match="not answered by an answer"):
        decode_answer(encode_hello(make_hello()))
    with pytest.raises(HandshakeError, match="does not begin with a hello"):
        decode_hello(encode_accepted(make_hello()))
