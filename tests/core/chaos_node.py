"""One replica of a chaotic cluster: its process, driver and machine, and what it must promise."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rafter_core import (
    NO_NODE,
    Entry,
    EntryKind,
    HardState,
    Membership,
    Message,
    MessageKind,
    PeerNotFound,
    RawNode,
    RequestRefused,
    Snapshot,
    SnapshotUnavailable,
)
from rafter_core.conf_change import decode
from tests.core.chaos_faults import NO_FAULTS, TICKS_NOMINAL, Traits
from tests.core.drivers import DRIVERS
from tests.core.storage_model import NO_DIGEST, ChaosStorage, Machine

if TYPE_CHECKING:
    from tests.core.harness import Cluster

ASKING_KINDS = (MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE)


class Node:
    """One replica with its driver and machine, and what a restart keeps of them."""

    def __init__(self, cluster: Cluster, node_id: int, traits: Traits) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.traits = traits
        self.draw = cluster.generator
        self.storage = ChaosStorage(cluster.founding_membership(node_id), self.before_snapshot)
        self.storage.fewer = self.fewer
        base = cluster.base
        if base is not None and node_id in base.membership.nodes:
            self.storage.apply_snapshot(base._replace(data=NO_DIGEST) if self.is_witness else base)
            self.storage.set_hard_state(HardState(base.term, NO_NODE, base.index))
        self.spoken_term = 0
        self.is_up = False
        self.paused_until = 0
        self.ticks_owed = 0
        self.clock = 0
        self.start()

    @property
    def is_witness(self) -> bool:
        return self.traits.is_witness

    # The life of the process.

    def start(self) -> None:
        """Start from what is durable."""
        cluster = self.cluster
        self.machine = self.storage.recovered_machine()
        self.reads: dict[bytes, int] = {}
        self.waiting_reads: list[tuple[int, bytes]] = []
        self.reports: list[tuple[int, int]] = []
        self.raw = RawNode(
            self.traits.config(self.node_id, self.machine.applied, cluster.options),
            self.storage,
            random.Random(self.draw.random()),
            cluster.trace,
        )
        if (
            cluster.options.founding == "bootstrap"
            and self.node_id in cluster.founders
            and not self.storage.last_index()
            and not self.raw.term
        ):
            self.raw.bootstrap(cluster.founders)
        assert self.raw.term >= self.spoken_term, "a term was spoken of and then forgotten"
        self.driver = DRIVERS[self.traits.mode](self)
        self.commit = self.raw.commit
        self.led_term = 0
        self.is_up = True
        self.paused_until = 0
        self.ticks_owed = 0

    def crash(self) -> None:
        """Lose everything that is not durable."""
        self.is_up = False

    def is_running(self) -> bool:
        """Return whether it is up, and not stopped for a while."""
        return self.is_up and self.paused_until <= self.cluster.now

    # Inputs.

    def call(self, act: Callable[[], object]) -> None:
        """Do something to the core and look at what it changed."""
        membership = self.raw.membership
        act()
        self._observe(membership)

    def receive(self, message: Message) -> None:
        """Take a message from the network."""
        with contextlib.suppress(PeerNotFound, RequestRefused):
            self.call(lambda: self.raw.step(message))
        self.turn()

    def tick(self) -> None:
        """Let a step pass on this node's own clock, which may be fast or slow."""
        self.clock += self.traits.tick_rate
        ticks, self.clock = divmod(self.clock, TICKS_NOMINAL)
        self.ticks_owed += ticks
        if not self.is_running():
            return
        while self.ticks_owed:
            # Time that passed while it was stopped is made good before anything else.
            self.ticks_owed -= 1
            self.call(self.raw.tick)
            self.turn()
        for due, to in self.reports:
            if due <= self.cluster.now:
                self.raw.report_snapshot(to, self.draw.random() < 0.5)
        self.reports = [item for item in self.reports if item[0] > self.cluster.now]
        self.turn()

    def turn(self) -> None:
        """Do the driver's duties until nothing more is due now."""
        driver = self.driver
        while True:
            while driver.can_take() and self.raw.has_ready():
                ready = self.raw.ready()
                for state in ready.read_states:
                    self.waiting_reads.append((state.index, state.context))
                driver.take(ready)
            if not driver.finish():
                break
        self._serve_reads()

    def compact(self) -> None:
        """Make a snapshot of the machine, and drop a part of the log that it covers."""
        storage = self.storage
        self.make_snapshot()
        newest = storage.newest_snapshot()
        # What the core was not told to be applied, it may still read.
        last = 0 if newest is None else min(self.raw.applied, newest.index)
        if last >= storage.first_index() and self.driver.is_settled():
            low = self.draw.choice((storage.first_index(), last))
            storage.compact(self.draw.randint(low, last))

    def make_snapshot(self) -> None:
        """Make a snapshot of the machine if it moved since the last one."""
        newest = self.storage.newest_snapshot()
        machine = self.machine
        known = 0 if newest is None else newest.index
        if machine.applied > known and self.driver.is_settled():
            self.storage.create_snapshot(machine.applied, machine.membership, machine.digest)

    # What the storage and the driver ask for.

    def before_snapshot(self) -> None:
        """Answer the core's wish for a snapshot: not now, what there is, or a fresh one."""
        if self.draw.random() < self.cluster.faults.no_snapshot:
            raise SnapshotUnavailable("it is being made")
        if self.draw.random() < 0.5 or self.cluster.faults is NO_FAULTS:
            self.make_snapshot()

    def fewer(self, count: int) -> int:
        if count > 1 and self.draw.random() < self.cluster.faults.few_entries:
            return self.draw.randint(1, count)
        return count

    def storage_delay(self) -> int:
        return self.draw.randrange(self.cluster.faults.storage_delay_steps_max)

    def apply_delay(self) -> int:
        return self.draw.randrange(self.cluster.faults.apply_delay_steps_max)

    def response_delay(self) -> int:
        return self.draw.randrange(self.cluster.faults.response_delay_steps_max)

    def check_durable(self, entries: Sequence[Entry]) -> None:
        """Check that what is about to be applied is stored here, and a whole."""
        storage = self.storage
        for position, entry in enumerate(entries, entries[0].index):
            assert entry.index == position, "gap in what is to be applied"
            assert storage.holds(entry.term, entry.index), "applied before it was durable"

    def persist(
        self, hard_state: HardState | None, entries: Sequence[Entry], snapshot: Snapshot | None
    ) -> None:
        """Make one Ready durable, as a unit; a snapshot is also installed in the machine."""
        if hard_state is not None:
            self.storage.set_hard_state(hard_state)
        if snapshot is not None:
            self.cluster.history.check_snapshot(snapshot, is_witness=self.is_witness)
            assert snapshot.index > self.machine.applied, "a snapshot rolled the machine back"
            self.storage.apply_snapshot(snapshot)
            self._move(Machine(snapshot.index, snapshot.data, snapshot.membership))
            self.cluster.snapshots_installed += 1
        self.storage.append(entries)

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply committed entries, but for those that a snapshot has overtaken meanwhile."""
        for entry in entries:
            machine = self.machine
            if entry.index <= machine.applied:
                continue
            assert entry.index == machine.applied + 1, "applied out of order"
            membership = machine.membership
            if entry.kind in (EntryKind.CONFIG_CHANGE, EntryKind.CONFIG_CHANGE_V2):
                change = decode(entry.kind, entry.payload)
                before = self.raw.membership
                membership = self.raw.apply_conf_change(change)
                self._observe(before)
                self.cluster.changes_applied += 1
            machine = machine.after(entry, membership, is_witness=self.is_witness)
            self.cluster.history.on_applied(entry, machine, is_witness=self.is_witness)
            self._move(machine)

    def send(self, messages: Sequence[Message], *, is_after_sync: bool) -> None:
        """Hand messages to the network."""
        for message in messages:
            if message.kind not in ASKING_KINDS:
                self.spoken_term = max(self.spoken_term, message.term)
                stored = self.storage.initial_state()[0].term
                assert message.term <= stored, "spoke of a term that is not durable"
            if message.kind is MessageKind.SNAPSHOT:
                self.reports.append((self.cluster.now + self.draw.randrange(1, 20), message.to))
            target = self.cluster.nodes[message.to]
            if target.is_witness and message.kind is MessageKind.APPEND:
                kept = [e for e in message.entries if e.kind is EntryKind.NORMAL and e.payload]
                assert not kept, f"a payload was sent to a witness: {kept}"
            self.cluster.post(message)

    def _move(self, machine: Machine) -> None:
        self.machine = machine
        if self.traits.has_durable_machine:
            self.storage.machine = machine

    def _serve_reads(self) -> None:
        applied = self.machine.applied
        for index, context in self.waiting_reads:
            if index > applied:
                continue
            # A repeated request is answered twice, one of an earlier life not any more.
            floor = self.reads.pop(context, None)
            if floor is not None:
                assert index >= floor, f"stale read: index {index}, applied before it {floor}"
                self.cluster.reads_served += 1
        self.waiting_reads = [item for item in self.waiting_reads if item[0] > applied]

    def _observe(self, membership: Membership) -> None:
        raw = self.raw
        commit = raw.commit
        assert commit >= self.commit, "commit index went back"
        if raw.is_leader:
            self.cluster.on_leader(self)
            if self.led_term == raw.term and commit > self.commit:
                self.cluster.check_quorum(self, (membership, raw.membership))
            self.led_term = raw.term
        self.commit = commit
