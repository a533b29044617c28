"""The key-value service of one group on one node: turns request batches into entries and reads.

Order. Requests of one router take effect in the order they arrived. Every batch with a write
becomes part of an entry; reads inside it are evaluated by the state machine between its writes. A
batch of reads alone never enters the log:

- if an entry is *forming*, its reads are evaluated right before that entry is applied here, or
  right after it when the same router has a write in it. The entry was not sent when the reads
  arrived, so its commit proves that this replica still led the group after that: no other round
  is needed.
- otherwise one ReadIndex round serves all reads that have gathered (thesis 6.4). It asks for the
  commit index of now; a read behind a write of its own router that is still in flight waits for
  that entry, too.

An entry that was *already sent* when a read arrived proves nothing: its acknowledgements may have
been under way before a newer leader took over and acknowledged a write that this replica has never
heard of. So reads never ride on entries that are in flight.

At most ENTRIES_IN_FLIGHT_MAX entries of a group are unapplied; what arrives meanwhile becomes the
next, larger entry.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from rafter_core import ReadDropped
from rafter_kv.batch import Batch, pack_payload
from rafter_kv.machine import KeyValueMachine
from rafter_kv.sessions import Status as BatchStatus
from rafterd.clock import Clock
from rafterd.replica import Replica
from rafterd.requests import Reply, Request, Status
from rafterd.shared import Counter

ENTRIES_IN_FLIGHT_MAX = 2
READ_ROUNDS_IN_FLIGHT_MAX = 2
ENTRY_BYTES_MAX = 1 << 20

Answer = Callable[[Request, Reply], None]
Origin = tuple[int, int] | None

_STATUS_OF_OUTCOME = {
    BatchStatus.RUN: Status.DONE,
    BatchStatus.DUPLICATE: Status.DUPLICATE,
    BatchStatus.GAP: Status.GAP,
    BatchStatus.EXPIRED: Status.EXPIRED,
    BatchStatus.REFUSED: Status.REFUSED,
}


class _Entry:
    """One proposed entry and the requests that wait for it (the engine's `Proposal`)."""

    __slots__ = ("after", "batches", "before", "is_open", "rounds", "service", "writers", "writes")

    def __init__(
        self,
        service: "GroupService",
        rounds: tuple[int, ...],
        before: list[Request],
        writes: list[Request],
        after: list[Request],
        writers: set[Origin],
    ) -> None:
        self.service = service
        self.rounds = rounds
        self.before = before
        self.writes = writes
        self.after = after
        self.writers = writers
        self.is_open = True
        self.batches: list[Batch] = [request.batch for request in writes]

    @property
    def context(self) -> object:
        return self.batches

    def before_apply(self) -> None:
        for number in self.rounds:
            self.service.finish_round(number)
        if self.before:
            self.service.read(self.before)

    def applied(self, result: Any) -> None:  # noqa: ANN401 - the state machine's own type
        service = self.service
        self._end()
        for request, outcome in zip(self.writes, result, strict=True):
            service.answer(request, _STATUS_OF_OUTCOME[outcome.status], outcome.results)
        if self.after:
            service.read(self.after)
        service.entry_applied()

    def lost(self) -> None:
        service = self.service
        self._end()
        for request in self.before:
            service.answer(request, Status.NOT_LEADER)
        for request in self.writes:
            service.answer(request, Status.LOST)
        for request in self.after:
            service.answer(request, Status.NOT_LEADER)

    def _end(self) -> None:
        self.is_open = False
        self.service.in_flight.remove(self)


class _Round(NamedTuple):
    """One ReadIndex round: its reads, and the entries that were in flight when it started."""

    requests: list[Request]
    entries: tuple[_Entry, ...]


class GroupService:
    """Serves one group where its replica leads, and says who leads where it does not."""

    __slots__ = (
        "_answer",
        "_clock",
        "_counters",
        "_is_disk_full",
        "_machine",
        "_mark",
        "_queue",
        "_queued_writes",
        "_replica",
        "_round_number",
        "_rounds",
        "in_flight",
    )

    def __init__(
        self,
        replica: Replica,
        machine: KeyValueMachine,
        clock: Clock,
        counters: memoryview,
        mark: Callable[[Replica], None],
        answer: Answer,
        is_disk_full: Callable[[], bool],
    ) -> None:
        self._replica = replica
        self._machine = machine
        self._clock = clock
        self._counters = counters
        self._mark = mark
        self._answer = answer
        self._is_disk_full = is_disk_full
        self._queue: deque[Request] = deque()
        self._queued_writes = 0
        self._rounds: dict[int, _Round] = {}
        self._round_number = 0
        self.in_flight: deque[_Entry] = deque()

    # Input ------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Take one request; exactly one answer follows, unless this process ends.

        A repetition joins an attempt of the same batch that still waits here: there is one answer
        to both, to the newer one. So the queue is bounded by the routers, each of which has few
        batches of a group outstanding.
        """
        if not self._replica.is_leader:
            self.answer(request, Status.NOT_LEADER)
            return
        if request.attempt > 1 and self._join_earlier_attempt(request):
            return
        if not request.is_read and self._is_disk_full():
            self.answer(request, Status.DISK_FULL)
            return
        self._queue.append(request)
        if not request.is_read:
            self._queued_writes += 1
        self._mark(self._replica)

    def _join_earlier_attempt(self, request: Request) -> bool:
        """Let a waiting attempt of the same batch, if there is one, stand for this one too."""
        for waiting in self._queue:
            if waiting.ticket == request.ticket and waiting.origin == request.origin:
                waiting.attempt = request.attempt
                waiting.batch = request.batch  # it may have got another number
                return True
        return False

    def expire_due_keys(self) -> None:
        """Propose an entry without commands if keys are due and nothing else carries the time."""
        replica = self._replica
        if not replica.is_leader or self._queued_writes or replica.proposals_count:
            return
        deadline_ms = self._machine.next_deadline_ms
        if deadline_ms is not None and deadline_ms <= self._now_ms() and not self._is_disk_full():
            self._propose([], [], [], set())

    # The replica's listener -------------------------------------------------------------------

    def advance(self) -> None:
        """Form entries and start read rounds from what has gathered."""
        if not self._queue:
            return
        replica = self._replica
        if not replica.is_leader:
            self.leadership_lost()
            return
        while self._queued_writes and replica.proposals_count < ENTRIES_IN_FLIGHT_MAX:
            if not self._form_entry():
                return
        if self._queue and not self._queued_writes:
            self._start_read_round()

    def read_confirmed(self, context: bytes) -> None:
        """Answer the reads of one ReadIndex round."""
        self.finish_round(int.from_bytes(context, "little"))

    def leadership_lost(self) -> None:
        """Turn away everything that waits; nothing of it was proposed."""
        waiting = [request for round_ in self._rounds.values() for request in round_.requests]
        waiting.extend(self._queue)
        self._rounds.clear()
        self._queue.clear()
        self._queued_writes = 0
        for request in waiting:
            self.answer(request, Status.NOT_LEADER)

    def entry_applied(self) -> None:
        """Look again in the coming round at what waited for an entry to be applied."""
        if self._queue:
            self._mark(self._replica)

    # Writes -----------------------------------------------------------------------------------

    def _form_entry(self) -> bool:
        """Propose one entry from the head of the queue; False if the core dropped it."""
        before: list[Request] = []
        writes: list[Request] = []
        after: list[Request] = []
        writers: set[Origin] = set()
        readers_after: set[Origin] = set()
        size_bytes = 0
        queue = self._queue
        while queue:
            request = queue[0]
            if request.is_read:
                if request.origin in writers:
                    after.append(request)
                    readers_after.add(request.origin)
                else:
                    before.append(request)
            else:
                size_bytes += request.size_bytes
                if writes and size_bytes > ENTRY_BYTES_MAX:
                    break
                if request.origin in readers_after:
                    break  # that read must not see this write
                writes.append(request)
                writers.add(request.origin)
            queue.popleft()
        self._queued_writes -= len(writes)
        if self._propose(before, writes, after, writers):
            return True
        for request in (*before, *writes, *after):
            self.answer(request, Status.NOT_LEADER)
        return False

    def _propose(
        self,
        before: list[Request],
        writes: list[Request],
        after: list[Request],
        writers: set[Origin],
    ) -> bool:
        entry = _Entry(self, tuple(self._rounds), before, writes, after, writers)
        payload = pack_payload(self._now_ms(), entry.batches)
        self._mark(self._replica)
        if not self._replica.propose(payload, entry):
            self._counters[Counter.PROPOSALS_DROPPED_TOTAL] += 1
            return False
        self._counters[Counter.PROPOSALS_TOTAL] += 1
        self.in_flight.append(entry)
        return True

    # Reads ------------------------------------------------------------------------------------

    def _start_read_round(self) -> None:
        if len(self._rounds) >= READ_ROUNDS_IN_FLIGHT_MAX:
            return
        requests = list(self._queue)
        self._queue.clear()
        self._round_number += 1
        number = self._round_number
        try:
            self._replica.node.read_index(number.to_bytes(8, "little"))
        except ReadDropped:
            for request in requests:
                self.answer(request, Status.NOT_LEADER)
            return
        self._rounds[number] = _Round(requests, tuple(self.in_flight))
        self._counters[Counter.READ_INDEX_ROUNDS_TOTAL] += 1

    def finish_round(self, number: int) -> None:
        """Answer the reads of a round, unless an entry's commit has answered them before."""
        round_ = self._rounds.pop(number, None)
        if round_ is None:
            return
        self._mark(self._replica)
        requests = round_.requests
        for entry in reversed(round_.entries):
            if entry.is_open and entry.writers:
                # Proved new enough, but behind a write of their own router.
                entry.after += [r for r in requests if r.origin in entry.writers]
                requests = [r for r in requests if r.origin not in entry.writers]
        self.read(requests)

    def read(self, requests: list[Request]) -> None:
        """Evaluate reads in the present state; the caller has proved that it is new enough."""
        now_ms = self._now_ms()
        lookup = self._machine.lookup
        for request in requests:
            self.answer(request, Status.DONE, lookup((request.batch.commands, now_ms)))

    # Both -------------------------------------------------------------------------------------

    def answer(self, request: Request, status: Status, results: list[Any] | None = None) -> None:
        """Send the one answer of `request` to the router it came from."""
        node = self._replica.node
        self._answer(
            request,
            Reply(
                request.ticket,
                request.attempt,
                status,
                0,
                results if results is not None else [],
                True,
                node.leader,
                node.term,
            ),
        )

    def _now_ms(self) -> int:
        return max(self._clock.now_ms(), self._machine.stamp_ms)
