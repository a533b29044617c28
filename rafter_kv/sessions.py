"""Client sessions: what makes a batch that is sent twice take effect once.

A session is one router's stream of batches to one group, numbered 1, 2, 3, … The results of a
batch are kept until the router says, with ``acknowledged_below`` of a later batch, that it has
them; a batch that comes again meanwhile is answered from there. (Ongaro's thesis, section 6.3.)

Everything here is replicated state: what happens depends on the log alone, and the time is the
log's.
"""

from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum

from rafter_kv.results import OK, Result

IDLE_MILLISECONDS_MAX = 600_000
"""A session that is not heard of for this long of log time is forgotten."""

SESSIONS_MAX = 65_536
"""Sessions of one group; new ones are refused beyond."""

UNACKNOWLEDGED_MAX = 1024
"""Batches of one session whose results may be kept; further ones are refused."""

RESULT_BYTES_MAX = 64 << 20
"""Bytes of results kept for one session; once over it, further batches are refused."""

EVICTIONS_PER_UPDATE_MAX = 64
"""Sessions that one entry forgets, at most: the next ones go with the next entry."""


class Status(IntEnum):
    """What became of a batch."""

    RUN = 0
    """Applied now."""
    DUPLICATE = 1
    """Applied before; the results are those of that time."""
    GAP = 2
    """Not applied: an earlier batch of the session is missing. Send that first."""
    EXPIRED = 3
    """Not applied now; whether it was before is not known any more."""
    REFUSED = 4
    """Not applied: a limit is reached. It may be sent again."""


class Session:
    """The replicated state of one session."""

    __slots__ = (
        "acknowledged_below",
        "last_sequence",
        "last_stamp_ms",
        "result_bytes",
        "results",
    )

    def __init__(self, last_sequence: int, acknowledged_below: int, last_stamp_ms: int) -> None:
        self.last_sequence = last_sequence
        self.acknowledged_below = acknowledged_below
        self.last_stamp_ms = last_stamp_ms
        self.results: dict[int, list[Result]] = {}
        """Results of the writes of acknowledged_below … last_sequence."""
        self.result_bytes = 0

    @property
    def is_full(self) -> bool:
        """Tell whether no more results may be kept until some are acknowledged."""
        return len(self.results) >= UNACKNOWLEDGED_MAX or self.result_bytes > RESULT_BYTES_MAX

    def record(self, sequence: int, results: list[Result]) -> None:
        """Keep the results of the next batch. The list is shared: nobody changes it."""
        assert sequence == self.last_sequence + 1, "batches of a session are applied in order"
        self.last_sequence = sequence
        self.results[sequence] = results
        self.result_bytes += _size(results)

    def acknowledge(self, below: int) -> None:
        """Drop the results that the router has. Never goes back, never beyond what was run."""
        below = min(below, self.last_sequence + 1)
        for sequence in range(self.acknowledged_below, below):
            self.result_bytes -= _size(self.results.pop(sequence))
        self.acknowledged_below = max(self.acknowledged_below, below)


class Sessions:
    """All sessions of one group, the longest unheard-of first."""

    __slots__ = ("_sessions",)

    def __init__(self) -> None:
        self._sessions: OrderedDict[int, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def items(self) -> Iterator[tuple[int, Session]]:
        """Iterate in the order of eviction."""
        return iter(self._sessions.items())

    def admit(
        self, identity: int, sequence: int, acknowledged_below: int, now_ms: int
    ) -> tuple[Status, Session | None]:
        """Decide about a batch. On RUN the caller applies it and calls ``Session.record``.

        The session comes with RUN and DUPLICATE.
        """
        session = self._sessions.get(identity)
        if session is None:
            return self._admit_unknown(identity, sequence, acknowledged_below, now_ms)
        session.last_stamp_ms = now_ms
        self._sessions.move_to_end(identity)
        session.acknowledge(acknowledged_below)
        if sequence > session.last_sequence + 1:
            return Status.GAP, None
        if sequence <= session.last_sequence:
            # A late copy of a batch that its router was answered for: nobody waits for it.
            if sequence < session.acknowledged_below:
                return Status.EXPIRED, None
            return Status.DUPLICATE, session
        if session.is_full:
            return Status.REFUSED, None
        return Status.RUN, session

    def evict(self, now_ms: int) -> int:
        """Forget sessions idle for too long, a bounded number at a time; return how many."""
        sessions = self._sessions
        for evicted in range(EVICTIONS_PER_UPDATE_MAX):
            if not sessions:
                return evicted
            identity = next(iter(sessions))
            if sessions[identity].last_stamp_ms + IDLE_MILLISECONDS_MAX >= now_ms:
                return evicted
            del sessions[identity]
        return EVICTIONS_PER_UPDATE_MAX

    def restore(self, identity: int, session: Session) -> None:
        """Put a session back, out of a snapshot, behind those restored before."""
        self._sessions[identity] = session

    def _admit_unknown(
        self, identity: int, sequence: int, acknowledged_below: int, now_ms: int
    ) -> tuple[Status, Session | None]:
        if acknowledged_below > 1:
            return Status.EXPIRED, None
        if sequence > 1:
            return Status.GAP, None
        if sequence < 1:
            return Status.REFUSED, None
        if len(self._sessions) >= SESSIONS_MAX:
            return Status.REFUSED, None
        session = Session(last_sequence=0, acknowledged_below=1, last_stamp_ms=now_ms)
        self._sessions[identity] = session
        return Status.RUN, session


def _size(results: list[Result]) -> int:
    """Sum up what values weigh. A write returns no collections, and the rest is small."""
    if results and type(results[-1]) is str and results.count(OK) == len(results):
        return 0
    return sum([len(result) for result in results if type(result) is bytes])
