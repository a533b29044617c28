"""Where the replies of commands gather until they can go out in the order of the commands.

A connection makes one `ReplySlot` for each read chunk. Whoever executes a command fills
`slot.replies[position]`, takes one from `slot.waiting`, and at zero calls `slot.complete()`: see
`deliver`.

A command whose keys lie in several groups gets a `Gather` of the same form in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from rafter_kv.results import OK, Result, is_error

if TYPE_CHECKING:
    from rafter_kv.connection import RespConnection

Combine: TypeAlias = Callable[[list[Result]], Result]


class ReplySlot:
    """The replies of one read chunk. Made and read by the connection, filled by the front end.

    A result that arrives when the connection is gone is dropped by `complete`; filling it stays
    allowed. `is_last` closes the connection behind the replies.
    """

    __slots__ = (
        "connection",
        "is_last",
        "protocol",
        "replies",
        "replies_sent",
        "request_bytes",
        "waiting",
    )

    def __init__(self, connection: RespConnection, count: int, request_bytes: int) -> None:
        self.connection = connection
        self.protocol = connection.protocol
        self.replies: list[Result] = [None] * count
        self.waiting = count
        self.request_bytes = request_bytes
        self.replies_sent = 0
        self.is_last = False

    def complete(self) -> None:
        """Tell the connection that every reply is here."""
        self.connection.slot_completed(self)


class Gather:
    """The parts of one command that went to several groups. Has the form of a ReplySlot.

    `combine` makes the one result of the parts', which are in the order of submission, and
    `complete` puts it in the parent's position. An error in any part is the result, the first one
    in that order: what the other groups did stays done.
    """

    __slots__ = ("_combine", "_parent", "_position", "connection", "protocol", "replies", "waiting")

    def __init__(self, parent: ReplySlot, position: int, count: int, combine: Combine) -> None:
        self._parent = parent
        self._position = position
        self._combine = combine
        self.connection = parent.connection
        self.protocol = parent.protocol
        self.replies: list[Result] = [None] * count
        self.waiting = count

    def complete(self) -> None:
        """Combine the parts, and complete the parent if this was the last it waited for."""
        parent = self._parent
        error = next((result for result in self.replies if is_error(result)), None)
        parent.replies[self._position] = self._combine(self.replies) if error is None else error
        parent.waiting -= 1
        if not parent.waiting:
            parent.complete()


def deliver(
    slots: Sequence[ReplySlot | Gather], positions: Sequence[int], results: Sequence[Result]
) -> None:
    """Put each result at its position of its slot, and complete the slots that are full then."""
    for slot, position, result in zip(slots, positions, results, strict=True):
        slot.replies[position] = result
        slot.waiting -= 1
        if not slot.waiting:
            slot.complete()


def combine_sum(results: list[Result]) -> Result:
    """Add integer results: DEL, EXISTS, DBSIZE."""
    return sum(result for result in results if isinstance(result, int))


def combine_lists(results: list[Result]) -> Result:
    """Join arrays in the order of the groups: KEYS."""
    joined: list[Result] = []
    for result in results:
        assert isinstance(result, list)
        joined += result
    return joined


def combine_ok(results: list[Result]) -> Result:
    """Every group said +OK, since an error does not come here: FLUSHALL."""
    assert all(type(result) is str for result in results)
    return OK
