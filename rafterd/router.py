"""The router: takes commands from this shard's connections to the leaders of their groups.

For each group it gathers the commands of one turn of the loop into a batch and sends it to the
shard that leads the group: in this process, over a link to another shard of this node, or to
another node. At most `batches_outstanding_max` batches of a group are under way; what arrives
meanwhile becomes the next, larger batch.

Batches with writes carry (session, sequence, acknowledged-below). After a lost leader or a broken
link every outstanding batch is sent again, in order, to whoever leads now: the state machine
executes each sequence once and in order, so the client sees latency, not an error. A batch whose
deadline passes is answered `-CLUSTERDOWN` if no attempt can have been executed, `-TIMEOUT`
otherwise, and the router starts a new session for the group, since the old one may have a gap for
ever.

Order. The batches of a group go to one place at a time, in order: a later one never leaves before
an earlier one, nor for another leader. When an earlier one was turned away, all are taken back and
sent again, and what still comes for the attempts before counts only where sessions keep the order:
for batches without reads.

Answers are taken in at once, but nothing is sent from there: repetition waits for the next round,
or for the next tick while it is not known whom to send to. So no exchange of refusals runs faster
than the ticks.

This is one long module because every part of it decides about the same few fields of `Route` and
`Outbound`, and the order of those decisions is the point.
"""

import logging
import secrets
from collections.abc import Callable
from itertools import chain, takewhile
from typing import Any

from rafter_kv.batch import Batch, pack_commands
from rafter_kv.reply_slot import Gather, ReplySlot, deliver
from rafter_transport.exchanger import Channel
from rafterd.environment import Buggify, never
from rafterd.group_service import GroupService
from rafterd.outbound import Outbound, Route, poison_overtaken, poison_reads
from rafterd.placement import shard_of_group
from rafterd.raft_post import Post, ShardCounts
from rafterd.requests import Reply, Request, Status, encode_request
from rafterd.shared import Counter, GroupState, GroupWord, SharedState

logger = logging.getLogger(__name__)

BATCHES_OUTSTANDING_MAX = 2
BATCH_COMMANDS_MAX = 4096
READS_UNWEIGHED_MAX = 256
"""Batches with reads of no more commands fit a frame anyway, or their keys are extraordinary."""
ATTEMPTS_BY_TIME = 4
"""How often within its timeout a request is sent for want of an answer."""
BATCH_BYTES_MAX = 1 << 20
NO_WRITES = pack_commands([])

NO_LEADER = "-CLUSTERDOWN No Raft leader for this key's group; nothing was executed"
DAMAGED = (
    "-CLUSTERDOWN This key's group is not served: its log on this node is damaged, see the "
    "server's own log; nothing was executed"
)
UNKNOWN_OUTCOME = (
    "-TIMEOUT The outcome is unknown: the command may have been executed, or may be later"
)
READ_LOST = (
    "-TIMEOUT The leader changed while a later write of this connection was under way; "
    "the read was not answered"
)
DISK_FULL = "-MISCONF The disk of the group's leader is full; nothing was executed"
TOO_MANY_SESSIONS = "-BUSY The group has too many client sessions; nothing was executed"

_REFUSALS = {Status.REFUSED: TOO_MANY_SESSIONS, Status.DISK_FULL: DISK_FULL}
_LEAVES_SESSION = (Status.REFUSED, Status.EXPIRED, Status.DISK_FULL)


class Router:
    """Routes the commands of one shard. All methods run on the shard's loop."""

    def __init__(
        self,
        *,
        node: int,
        shard: int,
        routes: dict[int, tuple[int, ...]],
        services: dict[int, GroupService],
        post: Post,
        shard_counts: ShardCounts,
        shared: SharedState,
        request_timeout_seconds: float,
        now_seconds: Callable[[], float],
        schedule: Callable[[], None],
        batches_outstanding_max: int = BATCHES_OUTSTANDING_MAX,
        random_bits: Callable[[int], int] = secrets.randbits,
        buggify: Buggify = never,
    ) -> None:
        self._buggify = buggify
        self._random_bits = random_bits
        self._batches_outstanding_max = batches_outstanding_max
        self._node = node
        self._shard = shard
        self._services = services
        self._post = post
        self._shard_counts = shard_counts
        self._shared = shared
        self._counters = shared.counter_words(shard)
        self._request_timeout_seconds = request_timeout_seconds
        self._now_seconds = now_seconds
        self.schedule = schedule
        self._routes = {
            group: Route(group, members, node, self._new_session())
            for group, members in routes.items()
        }
        self._dirty: list[Route] = []
        self._tickets: dict[int, Outbound] = {}
        # Not from 1: after a restart, answers to the process before may still be on their way here.
        self._ticket = random_bits(62)

    # From connections -------------------------------------------------------------------------

    def submit(
        self,
        group: int,
        command: list[bytes],
        is_write: bool,
        slot: ReplySlot | Gather,
        position: int,
    ) -> None:
        """Take one command; its result goes to `slot.replies[position]` later."""
        route = self._routes[group]
        if not route.commands:
            route.waiting_since_seconds = self._now_seconds()
        route.commands.append(command)
        route.slots.append(slot)
        route.positions.append(position)
        route.writes.append(is_write)
        if not route.is_dirty:
            self._mark(route)

    @property
    def is_idle(self) -> bool:
        """Whether no command waits for its result."""
        return not self._tickets and not any(route.commands for route in self._routes.values())

    # The round --------------------------------------------------------------------------------

    def form_batches(self) -> None:
        """Form and send the batches of this round; the engine calls it first."""
        dirty = self._dirty
        self._dirty = []
        for route in dirty:
            route.is_dirty = False
            if route.outstanding:
                self._follow_leader(route)
            while (
                route.commands
                and len(route.outstanding) < self._batches_outstanding_max
                and self._leader(route)
            ):
                self._form(route)
                self._send_waiting(route)

    def _mark(self, route: Route) -> None:
        """Look at a group that is not marked yet in the coming round."""
        route.is_dirty = True
        self._dirty.append(route)
        self.schedule()

    def _form(self, route: Route) -> None:
        """Make one batch of the oldest commands."""
        count = len(route.commands)
        if count > BATCH_COMMANDS_MAX:
            count = BATCH_COMMANDS_MAX
        if self._buggify("router.small_batch"):
            count = 1
        while True:
            commands = route.commands if count == len(route.commands) else route.commands[:count]
            flags = route.writes[:count]
            write_count = sum(flags)
            positions: list[int] | None
            if write_count == count:
                positions = None
                blob = pack_commands(commands)
                size_bytes = len(blob)
            else:
                if write_count == 0:
                    positions = []
                    blob = NO_WRITES
                else:
                    positions = [index for index, is_write in enumerate(flags) if is_write]
                    blob = pack_commands([commands[index] for index in positions])
                size_bytes = len(blob)
                if count > READS_UNWEIGHED_MAX:
                    size_bytes = sum(map(len, chain.from_iterable(commands)))
            if size_bytes <= BATCH_BYTES_MAX or count == 1:
                break
            count = (count + 1) // 2
        acknowledged_below = route.acknowledged_below()
        sequence = 0
        if write_count:
            route.sequence += 1
            sequence = route.sequence
        taken, slots, reply_positions, _ = route.take(count)
        batch = Batch(
            route.group, route.session, sequence, acknowledged_below, taken, positions, blob
        )
        self._ticket += 1
        deadline_seconds = route.waiting_since_seconds + self._request_timeout_seconds
        outbound = Outbound(route, self._ticket, batch, slots, reply_positions, deadline_seconds)
        self._tickets[outbound.ticket] = outbound
        route.outstanding.append(outbound)
        if route.commands:
            route.waiting_since_seconds = self._now_seconds()
        counters = self._counters
        counters[Counter.WRITES_TOTAL] += write_count
        counters[Counter.READS_TOTAL] += count - write_count

    def _leader(self, route: Route) -> int:
        """Return the node to send to, or 0 while no leader is known."""
        leader, term = self._shared.route(route.group)
        route.learn(leader, term)
        leader = route.leader_or_zero()
        if not leader and route.others and not self._hears_of_elections(route):
            # Ask the members in turn, they know or soon will.
            return route.others[route.next_member % len(route.others)]
        return leader

    def _hears_of_elections(self, route: Route) -> bool:
        """Whether a replica of the group runs on this node; one that is damaged does not."""
        state = self._shared.get_group(route.group, GroupWord.STATE)
        return self._node in route.members and state == GroupState.SERVING

    def _follow_leader(self, route: Route) -> None:
        """Send what waits to be sent; first take back what went to a node that leads no longer."""
        leader = self._leader(route)
        target = route.outstanding[0].target
        if leader and target is not None and target[0] != leader:
            self._take_back(route)
        self._send_waiting(route)

    def _is_overdue(self, outbound: Outbound, now_seconds: float) -> bool:
        """Whether an answer over a link should have come by now.

        It comes over another link than its request, the one that the leader's shard dials: it can
        be lost while the link of the request stays up.
        """
        return (
            outbound.target not in (None, (self._node, self._shard))
            and outbound.sent_seconds + self._request_timeout_seconds / ATTEMPTS_BY_TIME
            < now_seconds
        )

    def _take_back(self, route: Route) -> None:
        """Let every outstanding batch of a group wait to be sent again."""
        for outbound in route.outstanding:
            outbound.target = None
            outbound.first_attempt = outbound.attempt + 1

    def _repeat(self, route: Route) -> None:
        """Send everything again to where it went before; the answer to any attempt counts."""
        poison_reads(route.outstanding)
        for outbound in list(route.outstanding):
            if outbound.target is not None:
                self._send(outbound)

    def _send_waiting(self, route: Route) -> None:
        """Send the batches that wait to be sent, in order, up to the first that cannot go."""
        if route.is_held:
            return
        first = route.outstanding[0] if route.outstanding else None
        if first is not None and first.target is None and first.attempt:
            poison_reads(route.outstanding)
        for outbound in list(route.outstanding):
            if outbound.target is None:
                self._send(outbound)
                if outbound.target is None:
                    return

    def _send(self, outbound: Outbound) -> None:
        """Send one attempt; without a leader or a link the batch goes on waiting."""
        outbound.results = []
        route = outbound.route
        node = self._leader(route)
        if not node:
            return
        shards = self._shared.shards if node == self._node else self._shard_counts.shard_count(node)
        if shards is None:
            self._not_reached(route, node)
            return
        target = (node, shard_of_group(route.group, shards))
        request = Request(outbound.batch, outbound.ticket, outbound.attempt + 1, None)
        if target == (self._node, self._shard):
            service = self._services.get(route.group)
            if service is None:  # what leads here according to others ended with this process
                route.deny(node, route.term)
                return
            self._count_attempt(outbound, target)
            service.submit(request)
        elif self._post.post(*target, Channel.REQUEST, encode_request(request)):
            self._count_attempt(outbound, target)
            outbound.sent_seconds = self._now_seconds()
            self._counters[Counter.FORWARDED_TOTAL] += len(outbound.slots)
        else:
            self._not_reached(route, node)

    def _count_attempt(self, outbound: Outbound, target: tuple[int, int]) -> None:
        outbound.attempt += 1
        outbound.unresolved += 1
        outbound.target = target
        outbound.term = outbound.route.term

    def _not_reached(self, route: Route, node: int) -> None:
        """Try another member the next time, if nobody here tells when there is a new leader."""
        if not self._hears_of_elections(route):
            if node == route.leader:
                route.forget_leader()
            route.next_member += 1

    # Answers ----------------------------------------------------------------------------------

    def complete(self, reply: Reply) -> None:
        """Take the answer to a request of this router, from this shard or another."""
        outbound = self._tickets.get(reply.ticket)
        if outbound is None:
            return
        route = outbound.route
        status = reply.status
        is_current = reply.attempt >= outbound.first_attempt
        if status is Status.DONE or status is Status.DUPLICATE:
            if is_current or (
                # An earlier attempt. Sessions keep writes in order; reads, nobody would.
                outbound.batch.write_positions is None and not reply.start and reply.is_last
            ):
                self._take_results(outbound, reply)
            return
        route.learn(reply.leader, reply.term)
        if status is not Status.LOST:
            outbound.unresolved -= 1
        target = outbound.target
        if not is_current or target is None:
            return  # an attempt that was taken back; it will be sent again, or was
        if status in _LEAVES_SESSION:
            self._leave_session(outbound, status)
        elif status is Status.GAP:
            if any(not o.is_read for o in _before(route, outbound)):
                self._take_back(route)
            else:
                self._leave_session(outbound, status)
        else:
            self._turned_away(outbound, target[0], reply)
        if route.outstanding and not route.is_dirty:
            self._mark(route)

    def _turned_away(self, outbound: Outbound, node: int, reply: Reply) -> None:
        """Wait for another leader, or for the one that leads to take proposals again."""
        route = outbound.route
        self._take_back(route)
        if reply.leader != node:
            route.deny(node, outbound.term)
            route.next_member += 1
            if route.leader_or_zero():
                return
        route.is_held = True

    def _take_results(self, outbound: Outbound, reply: Reply) -> None:
        results = reply.results
        if reply.start or not reply.is_last:
            if not reply.start:
                outbound.results = []
            elif reply.start != len(outbound.results):
                return  # a piece of a reply that broke off; that of another attempt starts at 0
            outbound.results.extend(results)
            if not reply.is_last:
                return
            results = outbound.results
        if len(results) != len(outbound.slots):
            logger.error(
                "group %d answered %d commands with %d results",
                outbound.route.group,
                len(outbound.slots),
                len(results),
            )
            self._fail(outbound, UNKNOWN_OUTCOME)
            return
        if outbound.poisoned and outbound.is_too_late(
            reply.attempt, is_duplicate=reply.status is Status.DUPLICATE
        ):
            results = [
                READ_LOST if index in outbound.poisoned else result
                for index, result in enumerate(results)
            ]
        self._finish(outbound, results)

    def _finish(self, outbound: Outbound, results: list[Any]) -> None:
        """Hand the results to the slots and make room for the route's next batch."""
        del self._tickets[outbound.ticket]
        route = outbound.route
        if route.outstanding[0] is outbound:
            route.outstanding.popleft()
        else:
            poison_overtaken(route.outstanding, outbound)
            route.outstanding.remove(outbound)
        deliver(outbound.slots, outbound.positions, results)
        if route.commands and not route.is_dirty:
            self._mark(route)

    def _fail(self, outbound: Outbound, error: str) -> None:
        self._finish(outbound, [error] * len(outbound.slots))

    def _leave_session(self, outbound: Outbound, status: Status) -> None:
        """Go on under a new session: under this one `outbound` will never be executed.

        The group has forgotten the session (it was idle too long), or cannot take it in. Batches
        that were certainly not executed move on to the new one: behind a batch that never was, none
        of its session ever is.
        """
        route = outbound.route
        is_certain = not outbound.unresolved
        self._start_session(route)
        is_behind = False
        for waiting in list(route.outstanding):
            is_behind = is_behind or waiting is outbound
            if waiting.is_read:
                continue
            if waiting.unresolved and not (is_certain and is_behind):
                self._fail(waiting, UNKNOWN_OUTCOME)
            elif waiting is outbound and status in _REFUSALS:
                self._fail(waiting, _REFUSALS[status])
            else:
                route.sequence += 1
                waiting.batch = _renumbered(waiting.batch, route.session, route.sequence)
        self._take_back(route)

    def _start_session(self, route: Route) -> None:
        route.session = self._new_session()
        route.sequence = 0

    def _new_session(self) -> int:
        """Return a session id that no router has used."""
        return self._random_bits(63)

    # Repetition -------------------------------------------------------------------------------

    def link_changed(self, node: int, shard: int, is_up: bool) -> None:
        """Send again what may be lost with a broken link, or what waited for one to come up."""
        target = (node, shard)
        for route in self._routes.values():
            if not route.outstanding:
                continue
            if is_up:
                if route.outstanding[-1].target is None:
                    route.is_held = False
                    self._send_waiting(route)
            elif any(o.target == target for o in route.outstanding):
                self._take_back(route)
                self._send_waiting(route)

    def tick(self) -> None:
        """Retry what waits for a leader, and answer what cannot be, or has waited too long."""
        now_seconds = self._now_seconds()
        timeout_seconds = self._request_timeout_seconds
        for route in self._routes.values():
            route.is_held = False
            if route.outstanding:
                if any(o.deadline_seconds <= now_seconds for o in route.outstanding):
                    self._time_out(route)
                else:
                    self._follow_leader(route)
                    if any(self._is_overdue(o, now_seconds) for o in route.outstanding):
                        self._repeat(route)
            if route.commands:
                if now_seconds - route.waiting_since_seconds >= timeout_seconds:
                    self._fail_waiting(route, NO_LEADER)
                elif self._is_beyond_repair(route):
                    self._fail_waiting(route, DAMAGED)
                elif not route.is_dirty:
                    self._mark(route)

    def _time_out(self, route: Route) -> None:
        """Answer all outstanding batches of a group and leave its session behind."""
        for outbound in list(route.outstanding):
            is_unknown = outbound.unresolved and not outbound.is_read
            error = UNKNOWN_OUTCOME if is_unknown else NO_LEADER
            self._counters[Counter.TIMEOUTS_TOTAL] += len(outbound.slots)
            self._fail(outbound, error)
        self._start_session(route)
        if not self._hears_of_elections(route):
            # Whoever was asked does not answer, and nobody here tells that another one leads.
            route.forget_leader()
            route.next_member += 1

    def _is_beyond_repair(self, route: Route) -> bool:
        """Whether the only replica of a group is this node's, and its log is damaged."""
        state = self._shared.get_group(route.group, GroupWord.STATE)
        return state == GroupState.DAMAGED and not route.others

    def _fail_waiting(self, route: Route, error: str) -> None:
        """Answer the commands of a group that never found a leader."""
        _, slots, positions, _ = route.take(len(route.commands))
        self._counters[Counter.TIMEOUTS_TOTAL] += len(slots)
        deliver(slots, positions, [error] * len(slots))


def _before(route: Route, outbound: Outbound) -> list[Outbound]:
    """Return the outstanding batches before `outbound`."""
    return list(takewhile(lambda earlier: earlier is not outbound, route.outstanding))


def _renumbered(batch: Batch, session: int, sequence: int) -> Batch:
    """Return `batch` under another session; the old object may stand in an entry."""
    return Batch(
        batch.group, session, sequence, 1, batch.commands, batch.write_positions, batch.blob
    )
