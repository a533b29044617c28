"""What the core decodes, as targets of `make fuzz`; and its values, for properties of all kinds.

Whatever is fed is decoded to values that keep the promised ranges and encode to the same again, or
is refused with DecodeError.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import hypothesis
import msgpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rafter_core import serializer
from rafter_core.entries import NUMBER_MAX, Entry, EntryKind
from rafter_core.errors import DecodeError
from rafter_core.heartbeats import heartbeats_from_wire, heartbeats_to_wire
from rafter_core.membership import MEMBERS_MAX, Membership
from rafter_core.messages import (
    APPEND,
    HEARTBEAT,
    HEARTBEAT_RESPONSE,
    PRE_VOTE,
    PROPOSE,
    REMOTE_KINDS,
    SNAPSHOT,
    VOTE,
    Message,
    MessageKind,
)
from rafter_core.snapshot import Snapshot
from tests.fuzz.engine import Target

SEEDS = 300
"""Valid encodings that a target begins with."""

# Values -------------------------------------------------------------------------------------------

numbers = st.integers(0, NUMBER_MAX) | st.integers(0, 300)
numbers_from_one = st.integers(1, NUMBER_MAX) | st.integers(1, 300)
node_ids = st.integers(1, 12) | st.integers(1, NUMBER_MAX)
groups_of_nodes = st.sets(node_ids, max_size=5)


@st.composite
def entries(draw: st.DrawFn, min_size: int = 0) -> list[Entry]:
    """Entries as a log holds them: contiguous, of terms that never fall."""
    terms = sorted(draw(st.lists(numbers_from_one, min_size=min_size, max_size=5)))
    first = min(draw(numbers_from_one), NUMBER_MAX - 100)
    return [
        _entry(term, first + position, draw(st.sampled_from(EntryKind)), draw(st.binary()))
        for position, term in enumerate(terms)
    ]


def _entry(term: int, index: int, kind: EntryKind, payload: bytes) -> Entry:
    return Entry(term, index, kind, b"" if kind is EntryKind.STRIPPED else payload)


proposals = st.lists(
    st.builds(
        Entry,
        st.just(0),
        st.just(0),
        st.sampled_from(EntryKind).filter(lambda kind: kind is not EntryKind.STRIPPED),
        st.binary(),
    ),
    max_size=5,
)


@st.composite
def memberships(draw: st.DrawFn, min_voters: int = 0) -> Membership:
    """Memberships of every shape that the algebra can reach."""
    voters = draw(st.sets(node_ids, min_size=min_voters, max_size=5))
    outgoing = draw(groups_of_nodes) if draw(st.booleans()) else set()
    learners = draw(groups_of_nodes) - voters - outgoing
    learners_next = draw(groups_of_nodes) | outgoing
    return Membership(
        tuple(sorted(voters)),
        tuple(sorted(outgoing)),
        tuple(sorted(learners)),
        tuple(sorted((learners_next & outgoing) - voters)) if draw(st.booleans()) else (),
        bool(outgoing) and draw(st.booleans()),
        tuple(sorted(node for node in voters | outgoing if draw(st.booleans()))),
    )


snapshots = st.builds(
    Snapshot, numbers_from_one, numbers_from_one, memberships(min_voters=1), st.binary()
)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Messages of every kind that travels, with whatever its kind may carry."""
    kind = draw(st.sampled_from(sorted(REMOTE_KINDS)))
    message = Message(
        kind=kind,
        to=draw(numbers),
        sender=draw(numbers),
        term=draw(numbers),
        log_term=draw(numbers),
        index=draw(numbers),
        commit=draw(numbers),
        reject=draw(st.booleans()),
        reject_hint=draw(numbers),
        context=draw(st.binary(max_size=20)),
    )
    if kind is APPEND:
        message.entries = draw(entries())
    elif kind is PROPOSE:
        message.entries = draw(proposals)
    elif kind is VOTE or kind is PRE_VOTE:
        message.priority = draw(numbers)
    elif kind is SNAPSHOT:
        message.snapshot = draw(snapshots)
    return message


def pack(item: object) -> bytes:
    """Return a wire form as it stands in a frame."""
    packed: bytes = msgpack.packb(item)
    return packed


def pack_message(group: int, message: Message) -> bytes:
    """Return a message as it stands in a frame."""
    return pack(serializer.message_to_wire(group, message))


scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.integers(-2, 30)
    | st.sampled_from([NUMBER_MAX - 1, NUMBER_MAX, NUMBER_MAX + 1, (1 << 64) - 1])
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=20)
)
junk = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(st.text(max_size=5) | st.binary(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)
"""Whatever msgpack can hold."""
packed_entries = entries().map(serializer.pack_entries)
packed_heartbeats = st.lists(
    st.tuples(numbers, st.sampled_from([HEARTBEAT, HEARTBEAT_RESPONSE]), numbers, st.binary()),
    min_size=1, max_size=4,
).map(
    lambda beats: pack(
        heartbeats_to_wire(
            [
                (group, Message(kind=kind, to=1, sender=2, term=term, commit=term, context=context))
                for group, kind, term, context in beats
            ]
        )
    )
)  # fmt: skip
packed_memberships = memberships().map(serializer.pack_membership)
packed_members = memberships().map(lambda value: pack(serializer.membership_to_wire(value)))
packed_messages = st.builds(pack_message, numbers, messages())
packed_snapshots = snapshots.map(lambda snapshot: pack(serializer.snapshot_to_wire(snapshot)))
packed_snapshot_messages = snapshots.map(
    lambda snapshot: pack_message(1, Message(kind=SNAPSHOT, to=1, term=3, snapshot=snapshot))
)

# What decoding promises ---------------------------------------------------------------------------


def _is_number(value: object, least: int = 0) -> bool:
    return type(value) is int and least <= value <= NUMBER_MAX


def assert_entries(decoded: list[Entry]) -> None:
    """Entries of a log: contiguous, in range, of terms that never fall."""
    assert type(decoded) is list
    term = 1
    for position, entry in enumerate(decoded):
        assert _is_number(entry.term, term)
        assert _is_number(entry.index, 1)
        assert entry.index == decoded[0].index + position
        _assert_content(entry)
        term = entry.term


def _assert_content(entry: Entry) -> None:
    assert type(entry) is Entry
    assert type(entry.kind) is EntryKind
    assert type(entry.payload) is bytes
    assert entry.kind is not EntryKind.STRIPPED or not entry.payload


def assert_membership(decoded: Membership) -> None:
    """A membership without fault, of numbers in range, bounded."""
    assert type(decoded) is Membership
    assert decoded.fault() is None
    assert type(decoded.auto_leave) is bool
    assert len(decoded.nodes) <= MEMBERS_MAX
    for nodes in (decoded.nodes, decoded.learners_next, decoded.witnesses):
        assert type(nodes) is tuple
        assert all(_is_number(node, 1) for node in nodes)


def assert_message(group: int, decoded: Message) -> None:
    """A message of a kind that travels, with no more than its kind may carry."""
    kind = decoded.kind
    assert type(kind) is MessageKind
    assert kind in REMOTE_KINDS
    for number in (
        group, decoded.to, decoded.sender, decoded.term, decoded.log_term, decoded.index,
        decoded.commit, decoded.reject_hint, decoded.priority,
    ):  # fmt: skip
        assert _is_number(number)
    assert type(decoded.reject) is bool
    assert type(decoded.context) is bytes
    assert decoded.vote == 0
    assert decoded.responses == ()
    assert decoded.priority == 0 or kind in (VOTE, PRE_VOTE)
    if kind is PROPOSE:
        assert all((entry.term, entry.index) == (0, 0) for entry in decoded.entries)
        assert all(entry.kind is not EntryKind.STRIPPED for entry in decoded.entries)
        for entry in decoded.entries:
            _assert_content(entry)
    else:
        assert not decoded.entries or kind is APPEND
        assert_entries(list(decoded.entries))
    assert (decoded.snapshot is not None) == (kind is SNAPSHOT)
    if decoded.snapshot is not None:
        assert_snapshot(decoded.snapshot)


def assert_snapshot(decoded: Snapshot) -> None:
    """A snapshot of something, for somebody."""
    assert type(decoded) is Snapshot
    assert _is_number(decoded.index, 1)
    assert _is_number(decoded.term, 1)
    assert type(decoded.data) is bytes
    assert decoded.membership.voters
    assert_membership(decoded.membership)


# Checks: each takes an input, and tells whether it was accepted -----------------------------------


def check_entries(data: bytes) -> bool:
    """Decode entries from bytes."""
    try:
        decoded = serializer.unpack_entries(data)
    except DecodeError:
        return False
    assert_entries(decoded)
    assert serializer.unpack_entries(serializer.pack_entries(decoded)) == decoded
    return True


def check_membership(data: bytes) -> bool:
    """Decode a membership from bytes."""
    try:
        decoded = serializer.unpack_membership(data)
    except DecodeError:
        return False
    assert_membership(decoded)
    assert serializer.unpack_membership(serializer.pack_membership(decoded)) == decoded
    return True


def check_message_item(item: object) -> bool:
    """Decode a message from a value that came out of a frame."""
    try:
        group, decoded = serializer.message_from_wire(item)
    except DecodeError:
        return False
    assert_message(group, decoded)
    wire = serializer.message_to_wire(group, decoded)
    assert wire == item
    assert serializer.message_from_wire(wire) == (group, decoded)
    return True


def check_message(data: bytes) -> bool:
    """Decode a message from bytes, read as a receiver of frames reads them."""
    try:
        item = msgpack.unpackb(data)
    except (ValueError, TypeError, RecursionError):
        return False  # not the serializer's input yet
    return check_message_item(item)


def check_heartbeats_item(item: object) -> bool:
    """Decode heartbeats from a value that came out of a frame."""
    try:
        decoded = heartbeats_from_wire(item)
    except DecodeError:
        return False
    assert decoded
    for group, message in decoded:
        assert message.kind in (HEARTBEAT, HEARTBEAT_RESPONSE)
        assert_message(group, message)
    assert heartbeats_to_wire(decoded) == item
    return True


def check_heartbeats(data: bytes) -> bool:
    """Decode heartbeats from bytes, read as a receiver of frames reads them."""
    try:
        item = msgpack.unpackb(data)
    except (ValueError, TypeError, RecursionError):
        return False
    return check_heartbeats_item(item)


def check_item(item: object) -> bool:
    """Decode a value as everything, also where it stands inside of something else."""
    inside = [
        [1, int(APPEND), 1, 2, 3, 0, 0, 0, False, 0, b"", item],
        [1, int(PROPOSE), 1, 2, 0, 0, 0, 0, False, 0, b"", item],
        [1, int(VOTE), 1, 2, 3, 0, 0, 0, False, 0, b"", [], item],
        [1, int(SNAPSHOT), 1, 2, 3, 0, 0, 0, False, 0, b"", [], item],
        [1, int(SNAPSHOT), 1, 2, 3, 0, 0, 0, False, 0, b"", [], [1, 1, item, b""]],
    ]
    accepted = [check_message_item(item), *map(check_message_item, inside)]
    for from_wire in (
        serializer.entries_from_wire,
        serializer.snapshot_from_wire,
        serializer.membership_from_wire,
    ):
        try:
            from_wire(item)
        except DecodeError:
            continue
        accepted.append(True)
    return any(accepted)


def check_part(data: bytes) -> bool:
    """Decode bytes as everything that stands in a message."""
    try:
        item = msgpack.unpackb(data)
    except (ValueError, TypeError, RecursionError):
        return False
    return check_item(item)


def check_entries_survive(value: list[Entry]) -> bool:
    """Entries come back as they were."""
    decoded = serializer.unpack_entries(serializer.pack_entries(value))
    assert_entries(decoded)
    assert decoded == value
    return True


def check_membership_survives(value: Membership) -> bool:
    """A membership comes back as it was."""
    decoded = serializer.unpack_membership(serializer.pack_membership(value))
    assert_membership(decoded)
    assert decoded == value
    return True


def check_snapshot_survives(value: Snapshot) -> bool:
    """A snapshot comes back as it was."""
    wire = msgpack.unpackb(pack(serializer.snapshot_to_wire(value)))
    decoded = serializer.snapshot_from_wire(wire)
    assert_snapshot(decoded)
    assert decoded == value
    return True


def check_message_survives(value: tuple[int, Message]) -> bool:
    """A message comes back as it was."""
    group, message = serializer.message_from_wire(msgpack.unpackb(pack_message(*value)))
    assert_message(group, message)
    assert (group, message) == value
    return True


# Targets ------------------------------------------------------------------------------------------


def seeds_of(
    *strategies: st.SearchStrategy[bytes],
) -> Callable[[random.Random], list[bytes]]:
    """Return what draws valid encodings for a target."""

    def seeds(generator: random.Random) -> list[bytes]:
        found: list[bytes] = []
        test = given(st.one_of(*strategies))(lambda value: found.append(value))
        limits = settings(
            max_examples=SEEDS,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        limits(hypothesis.seed(generator.random())(test))()
        return found

    return seeds


TARGETS = [
    Target("entries", seeds_of(packed_entries), check_entries),
    Target("memberships", seeds_of(packed_memberships), check_membership),
    Target("messages", seeds_of(packed_messages, packed_snapshot_messages), check_message),
    Target("heartbeats", seeds_of(packed_heartbeats), check_heartbeats),
    Target(
        "parts of messages",
        seeds_of(packed_entries, packed_snapshots, packed_members),
        check_part,
    ),
]
