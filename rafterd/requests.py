"""Request and reply batches: how routers and group leaders talk.

One message pair serves the three ways a command can travel: inside a shard, between the shards of a
node, and between nodes (architecture.md §5). Inside a shard the objects themselves are passed; on a
link they are msgpack items of the REQUEST and REPLY channels, decoded here strictly: a malformed
item is an error of the peer and never reaches a state machine.
"""

from enum import IntEnum
from typing import Any, NamedTuple

from rafter_kv.batch import Batch, BatchError
from rafter_transport.payload import PayloadError

REQUEST_FIELDS = 2
"""Fields of a REQUEST item before those of its batch."""
RESULTS_BYTES_PER_ITEM = 1 << 20


class Status(IntEnum):
    """How a leader answered a request batch."""

    DONE = 0  # executed now; results follow
    DUPLICATE = 1  # executed by an earlier attempt; the results are that attempt's
    GAP = 2  # not executed: an earlier batch of its session is missing
    EXPIRED = 3  # not executed by this attempt: its session is no longer known
    REFUSED = 4  # not executed: too many sessions
    NOT_LEADER = 5  # not executed: this replica does not lead the group
    LOST = 6  # proposed, then leadership was lost: the outcome is unknown
    DISK_FULL = 7  # not executed: the leader has no room to write it down


_STATUS_MAX = max(Status)


class Request:
    """One batch at the group's leader.

    `origin` is the (node, shard) whose router sent it, or None for this shard's own router;
    `ticket` and `attempt` are that router's and go back unchanged.
    """

    __slots__ = ("attempt", "batch", "is_read", "origin", "size_bytes", "ticket")

    def __init__(
        self, batch: Batch, ticket: int, attempt: int, origin: tuple[int, int] | None
    ) -> None:
        self.batch = batch
        self.ticket = ticket
        self.attempt = attempt
        self.origin = origin
        self.is_read = batch.write_positions == []
        self.size_bytes = len(batch.blob)


class Reply(NamedTuple):
    """One answer to a request, or one piece of it when the results are large.

    `results` belong at `start` onwards; the request is answered once `is_last` has come. `leader`
    and `term` are what the replica knows of its group's leadership.
    """

    ticket: int
    attempt: int
    status: Status
    start: int
    results: list[Any]
    is_last: bool
    leader: int
    term: int


def not_executed(request: Request, status: Status, leader: int, term: int) -> Reply:
    """Return the answer without results to a request that was not executed, as far as is known."""
    return Reply(
        ticket=request.ticket,
        attempt=request.attempt,
        status=status,
        start=0,
        results=[],
        is_last=True,
        leader=leader,
        term=term,
    )


def encode_request(request: Request) -> list[Any]:
    """Return the REQUEST item: ticket, attempt and batch; packed writes go as they are."""
    return [request.ticket, request.attempt, *request.batch.to_wire()]


def decode_request(item: Any, origin: tuple[int, int]) -> Request:  # noqa: ANN401 - from the wire
    """Return the request in a REQUEST item that came from the shard `origin`.

    Raises PayloadError for anything that `encode_request` would not have written.
    """
    if type(item) is not list or len(item) < REQUEST_FIELDS:
        raise PayloadError("a request is an array that begins with ticket and attempt")
    ticket, attempt = item[:REQUEST_FIELDS]
    if type(ticket) is not int or type(attempt) is not int or ticket < 0 or attempt < 0:
        raise PayloadError("a request's ticket and attempt are integers of at least 0")
    try:
        batch = Batch.from_wire(item[REQUEST_FIELDS:])
    except BatchError as error:
        raise PayloadError(f"a request's batch is malformed: {error}") from error
    if not batch.commands:
        raise PayloadError("a request has at least one command")
    return Request(batch, ticket, attempt, origin)


def encode_replies(reply: Reply) -> list[list[Any]]:
    """Return the REPLY items of one answer: one, or several where the results are large."""
    pieces = _split_results(reply.results)
    items: list[list[Any]] = []
    start = 0
    for number, results in enumerate(pieces, 1):
        items.append(
            [
                reply.ticket,
                reply.attempt,
                int(reply.status),
                start,
                results,
                number == len(pieces),
                reply.leader,
                reply.term,
            ]
        )
        start += len(results)
    return items


def _split_results(results: list[Any]) -> list[list[Any]]:
    if len(results) <= 1:
        return [results]
    pieces: list[list[Any]] = [[]]
    size_bytes = 0
    for result in results:
        result_bytes = len(result) if type(result) is bytes else _size(result)
        size_bytes += result_bytes
        if size_bytes > RESULTS_BYTES_PER_ITEM and pieces[-1]:
            pieces.append([])
            size_bytes = result_bytes
        pieces[-1].append(result)
    return pieces


def _size(result: Any) -> int:  # noqa: ANN401 - any result value
    """Estimate what a result weighs on the wire."""
    if type(result) is bytes or type(result) is str:
        return len(result)
    if type(result) is list:
        return 8 + sum(map(_size, result))
    return 8


def decode_reply(item: Any) -> Reply:  # noqa: ANN401 - from the wire
    """Return the reply in a REPLY item; raises PayloadError for a malformed one."""
    if type(item) is not list or len(item) != 8:
        raise PayloadError("a reply is an array of eight")
    ticket, attempt, status, start, results, is_last, leader, term = item
    for number in (ticket, attempt, status, start, leader, term):
        if type(number) is not int or number < 0:
            raise PayloadError("a reply's numbers are integers of at least 0")
    if status > _STATUS_MAX:
        raise PayloadError(f"a reply has the unknown status {status}")
    if type(results) is not list or type(is_last) is not bool:
        raise PayloadError("a reply's results are an array, followed by a boolean")
    return Reply(ticket, attempt, Status(status), start, results, is_last, leader, term)
