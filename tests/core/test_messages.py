from __future__ import annotations

import pytest

from rafter_core import Message, MessageKind
from rafter_core.messages import KINDS, REMOTE_KINDS, RESPONSE_KINDS
from tests.core.support import log_of


def test_kinds_are_numbered_without_gaps_as_the_table_needs() -> None:
    assert [kind.value for kind in KINDS] == list(range(24))
    assert KINDS[3] is MessageKind.APPEND
    assert KINDS[23] is MessageKind.FORGET_LEADER


def test_every_response_may_come_from_a_peer() -> None:
    assert RESPONSE_KINDS < REMOTE_KINDS


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
