import msgpack
import pytest

from rafter_kv.batch import (
    COMMANDS_MAX,
    Batch,
    BatchError,
    PayloadError,
    pack_commands,
    pack_payload,
    unpack_commands,
    unpack_payload,
)

SET = [b"SET", b"k", b"v"]
GET = [b"GET", b"k"]


def wire(**changes: object) -> list[object]:
    """What ``to_wire`` gives for one write, with single fields changed."""
    fields: dict[str, object] = {
        "group": 1,
        "session": 2,
        "sequence": 3,
        "acknowledged_below": 2,
        "blob": pack_commands([SET]),
        "positions": None,
        "reads": b"",
    }
    return list((fields | changes).values())


def test_a_blob_holds_the_writes_alone_in_their_order() -> None:
    batch = Batch(1, 2, 3, 2, [GET, SET, GET, [b"DEL", b"k"]], [1, 3])
    assert unpack_commands(batch.blob) == [tuple(SET), (b"DEL", b"k")]


@pytest.mark.parametrize(
    ("commands", "positions"),
    [
        ([SET, SET], None),
        ([SET, SET], [0, 1]),
        ([GET, SET, GET], [1]),
        ([GET], []),
        ([], None),
    ],
)
def test_a_batch_survives_the_wire(
    commands: list[list[bytes]], positions: list[int] | None
) -> None:
    sent = Batch(1, 2, 3, 2, commands, positions)
    received = Batch.from_wire(msgpack.unpackb(msgpack.packb(sent.to_wire())))
    assert [list(command) for command in received.commands] == commands
    assert received.write_positions == positions
    assert received.blob == sent.blob
    assert (received.group, received.session, received.sequence) == (1, 2, 3)
    assert received.acknowledged_below == 2


@pytest.mark.parametrize(
    "item",
    [
        None,
        [],
        wire()[:-1],
        wire(group=-1),
        wire(session=1 << 64),
        wire(sequence=True),
        wire(sequence=b"1"),
        wire(blob="text"),
        wire(blob=b"\xc1"),
        wire(blob=b"\x91"),
        wire(blob=msgpack.packb(5)),
        wire(blob=msgpack.packb([5])),
        wire(blob=msgpack.packb([[]])),
        wire(blob=msgpack.packb([[b"SET", b"k", 5]])),
        wire(blob=msgpack.packb([["SET", "k", "v"]])),
        wire(blob=pack_commands([GET])),
        wire(blob=pack_commands([[b"SET", b"k"]])),
        wire(blob=pack_commands([[b"set", b"k", b"v"]])),
        wire(blob=pack_commands([[b"PING"]])),
        wire(blob=pack_commands([[b"DEL", b"k"]] * (COMMANDS_MAX + 1))),
        wire(positions=[0], reads=pack_commands([SET])),
        wire(positions=[], reads=pack_commands([GET])),
        wire(positions=[2], reads=pack_commands([GET])),
        wire(positions=[-1], reads=pack_commands([GET])),
        wire(positions=[0, 1], reads=pack_commands([GET])),
        wire(positions=["0"], reads=pack_commands([GET])),
        wire(positions=5, reads=pack_commands([GET])),
        wire(positions=[0], reads=b""),
    ],
)
def test_what_apply_could_not_trust_is_refused(item: object) -> None:
    with pytest.raises(BatchError):
        Batch.from_wire(item)


def test_repeated_positions_are_refused() -> None:
    with pytest.raises(BatchError, match="distinct"):
        Batch.from_wire(
            wire(blob=pack_commands([SET, SET]), positions=[0, 0], reads=pack_commands([GET]))
        )


def test_a_payload_carries_the_blobs_as_they_are() -> None:
    batches = [Batch(1, 2, 3, 2, [SET]), Batch(1, 9, 1, 1, [GET, SET], [1])]
    stamp_ms, items = unpack_payload(pack_payload(77, batches))
    assert stamp_ms == 77
    assert items == [2, 3, 2, batches[0].blob, 9, 1, 1, batches[1].blob]


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\x92\x01",
        msgpack.packb(5),
        msgpack.packb([1]),
        msgpack.packb([1, [2, 3]]),
        msgpack.packb([b"1", []]),
        msgpack.packb([1, {}]),
        msgpack.packb([1, []]) + b"\x00",
    ],
)
def test_an_unreadable_payload_is_an_error_of_its_own(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        unpack_payload(payload)
