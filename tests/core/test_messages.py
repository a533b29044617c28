"""The kinds of messages, which of them travel and which answer, and the message as a value."""

from __future__ import annotations

import pytest

from rafter_core import NUMBER_MAX, Message, MessageKind, Snapshot
from rafter_core.messages import (
    APPEND_THREAD,
    APPLY_THREAD,
    KINDS,
    REMOTE_KINDS,
    RESPONSE_KINDS,
    TERMLESS_KINDS,
)
from tests.core.support import THREE, log_of


def test_kinds_are_numbered_without_gaps_as_the_table_needs() -> None:
    assert [kind.value for kind in KINDS] == list(range(25))
    assert KINDS[3] is MessageKind.APPEND
    assert KINDS[24] is MessageKind.QUIESCE


@pytest.mark.parametrize(
    ("kind", "is_local", "is_response"),
    [
        ("CAMPAIGN", True, False),
        ("BEAT", True, False),
        ("PROPOSE", False, False),
        ("APPEND", False, False),
        ("APPEND_RESPONSE", False, True),
        ("VOTE", False, False),
        ("VOTE_RESPONSE", False, True),
        ("SNAPSHOT", False, False),
        ("HEARTBEAT", False, False),
        ("HEARTBEAT_RESPONSE", False, True),
        ("UNREACHABLE", True, False),
        ("SNAPSHOT_STATUS", True, False),
        ("CHECK_QUORUM", True, False),
        ("TRANSFER_LEADER", False, False),
        ("TIMEOUT_NOW", False, False),
        ("READ_INDEX", False, False),
        ("READ_INDEX_RESPONSE", False, True),
        ("PRE_VOTE", False, False),
        ("PRE_VOTE_RESPONSE", False, True),
        ("STORAGE_APPEND", True, False),
        ("STORAGE_APPEND_RESPONSE", True, False),
        ("STORAGE_APPLY", True, False),
        ("STORAGE_APPLY_RESPONSE", True, False),
        ("FORGET_LEADER", True, False),
        ("QUIESCE", False, False),
    ],
)
def test_each_kind_is_local_or_travels_and_answers_or_asks(
    kind: str, is_local: bool, is_response: bool
) -> None:
    member = MessageKind[kind]
    assert (member not in REMOTE_KINDS) is is_local
    assert (member in RESPONSE_KINDS) is is_response


def test_numbers_are_those_of_etcd() -> None:
    assert [kind.name for kind in KINDS] == [
        "CAMPAIGN", "BEAT", "PROPOSE", "APPEND", "APPEND_RESPONSE", "VOTE", "VOTE_RESPONSE",
        "SNAPSHOT", "HEARTBEAT", "HEARTBEAT_RESPONSE", "UNREACHABLE", "SNAPSHOT_STATUS",
        "CHECK_QUORUM", "TRANSFER_LEADER", "TIMEOUT_NOW", "READ_INDEX", "READ_INDEX_RESPONSE",
        "PRE_VOTE", "PRE_VOTE_RESPONSE", "STORAGE_APPEND", "STORAGE_APPEND_RESPONSE",
        "STORAGE_APPLY", "STORAGE_APPLY_RESPONSE", "FORGET_LEADER", "QUIESCE",
    ]  # fmt: skip


def test_only_forwarded_requests_carry_no_term() -> None:
    assert {MessageKind.PROPOSE, MessageKind.READ_INDEX} == TERMLESS_KINDS


def test_storage_threads_have_ids_that_no_node_can_have() -> None:
    assert NUMBER_MAX < APPLY_THREAD < APPEND_THREAD < 1 << 64


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", MessageKind.VOTE),
        ("to", 9),
        ("sender", 9),
        ("term", 9),
        ("log_term", 9),
        ("index", 9),
        ("entries", log_of(1, 2)),
        ("commit", 9),
        ("reject", True),
        ("reject_hint", 9),
        ("context", b"x"),
        ("priority", 9),
        ("snapshot", Snapshot(1, 1, THREE)),
        ("vote", 9),
        ("responses", [Message(kind=MessageKind.VOTE)]),
    ],
)
def test_every_field_counts_when_messages_are_compared(field: str, value: object) -> None:
    left, right = Message(kind=MessageKind.APPEND), Message(kind=MessageKind.APPEND)
    assert left == right
    setattr(right, field, value)
    assert left != right


def test_messages_compare_by_value() -> None:
    left = Message(kind=MessageKind.APPEND, to=2, sender=1, term=3, entries=log_of(1, 2))
    right = Message(kind=MessageKind.APPEND, to=2, sender=1, term=3, entries=tuple(log_of(1, 2)))
    assert left == right
    right.commit = 1
    assert left != right
    assert left != 7


def test_messages_are_not_hashable() -> None:
    with pytest.raises(TypeError):
        hash(Message(kind=MessageKind.APPEND))


def test_repr_tells_what_matters() -> None:
    message = Message(
        kind=MessageKind.APPEND_RESPONSE,
        to=1,
        sender=2,
        term=3,
        index=7,
        log_term=2,
        reject=True,
        reject_hint=4,
        commit=5,
        context=b"x",
        entries=log_of(1),
    )
    assert repr(message) == (
        "<2->1 APPEND_RESPONSE term=3 log=2/7 rejected(hint=4) commit=5 entries=1 context=b'x'>"
    )


def test_repr_shows_a_snapshot_without_its_data() -> None:
    snapshot = Snapshot(5, 2, THREE, b"x" * 1000)
    message = Message(kind=MessageKind.SNAPSHOT, to=2, sender=1, term=3, snapshot=snapshot)
    assert repr(message) == f"<1->2 SNAPSHOT term=3 log=0/0 {snapshot!r}>"
    assert "data of 1000 bytes" in repr(message)
