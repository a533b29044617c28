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
from rafter_core.membership import MEMBERS_MAX, Membership
from rafter_core.message_wire import messages_from_wire, messages_to_wire
from rafter_core.messages import (
    APPEND,
    HEARTBEAT,
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
def messages(draw: st.DrawFn, to: int = 1, sender: int = 2) -> Message:
    """Messages of every kind that travels, with whatever its kind may carry."""
    kind = draw(st.sampled_from(sorted(REMOTE_KINDS)))
    message = Message(
        kind=kind,
        to=to,
        sender=sender,
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
        if message.entries:
            message.index = message.entries[0].index - 1
    elif kind is PROPOSE:
        message.entries = draw(proposals)
    elif kind is VOTE or kind is PRE_VOTE:
        message.priority = draw(numbers)
    elif kind is SNAPSHOT:
        message.snapshot = draw(snapshots)
    return message


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[int, Message]]:
    """Messages of some groups, from one node to one other."""
    message = messages(draw(numbers), draw(numbers))
    return draw(st.lists(st.tuples(numbers, message), min_size=1, max_size=4))


def pack(item: object) -> bytes:
    """Return a wire form as it stands in a frame."""
    packed: bytes = msgpack.packb(item)
    return packed


def pack_message(message: Message) -> bytes:
    """Return one message as it stands in a frame."""
    return pack(messages_to_wire([(1, message)]))


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
packed_memberships = memberships().map(serializer.pack_membership)
packed_members = memberships().map(lambda value: pack(serializer.membership_to_wire(value)))
packed_messages = batches().map(lambda batch: pack(messages_to_wire(batch)))
packed_snapshots = snapshots.map(lambda snapshot: pack(serializer.snapshot_to_wire(snapshot)))
packed_snapshot_messages = snapshots.map(
    lambda snapshot: pack_message(Message(kind=SNAPSHOT, to=1, term=3, snapshot=snapshot))
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


def check_messages_item(item: object) -> bool:
    """Decode messages from a value that came out of a frame."""
    try:
        decoded = messages_from_wire(item)
    except DecodeError:
        return False
    assert decoded
    for group, message in decoded:
        assert_message(group, message)
    wire = messages_to_wire(decoded)
    assert wire == item
    assert messages_from_wire(wire) == decoded
    return True


def check_messages(data: bytes) -> bool:
    """Decode messages from bytes, read as a receiver of frames reads them."""
    try:
        item = msgpack.unpackb(data)
    except (ValueError, TypeError, RecursionError):
        return False  # not the decoder's input yet
    return check_messages_item(item)


def check_item(item: object) -> bool:
    """Decode a value as everything, also where it stands inside of something else."""
    append = _head(Message(kind=APPEND, entries=[Entry(1, 1, EntryKind.NORMAL, b"")]))
    propose = _head(Message(kind=PROPOSE, entries=[Entry(0, 0, EntryKind.NORMAL, b"")]))
    snapshot = _head(Message(kind=SNAPSHOT, snapshot=Snapshot(1, 1, Membership((1,)))))
    context = _head(Message(kind=HEARTBEAT, context=b"context"))
    inside = [
        [item, 2, append, [], [1, 0, b""]],
        [1, 2, item, [], []],
        [1, 2, append, item, [1, 0, b""]],
        [1, 2, append, [], item],
        [1, 2, propose, [], item],
        [1, 2, context, [item], []],
        [1, 2, snapshot, [item], []],
        [1, 2, snapshot, [[1, 1, item, b""]], []],
    ]
    accepted = [check_messages_item(item), *map(check_messages_item, inside)]
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


def _head(message: Message) -> object:
    """Return the head of one message."""
    return messages_to_wire([(1, message)])[2]


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


def check_messages_survive(value: list[tuple[int, Message]]) -> bool:
    """Messages come back as they were."""
    decoded = messages_from_wire(msgpack.unpackb(pack(messages_to_wire(value))))
    for group, message in decoded:
        assert_message(group, message)
    assert decoded == value
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
    Target("messages", seeds_of(packed_messages, packed_snapshot_messages), check_messages),
    Target(
        "parts of messages",
        seeds_of(packed_entries, packed_snapshots, packed_members),
        check_part,
    ),
]
