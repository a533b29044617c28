"""The durable side of a replica under chaos: a log store with whims, a state machine, history.

What one node knows is in `ChaosStorage` and `Machine`; what all nodes must agree on is in
`History`. The first node that applies an index defines what stands there; everybody else, and
every snapshot, is compared with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from rafter_core import Entry, EntryKind, HardState, Membership, MemoryStorage, Snapshot

STRIPPED = EntryKind.STRIPPED
NO_DIGEST = b""


class Machine(NamedTuple):
    """A state machine that remembers a digest of all it applied, and the configuration there.

    A witness sees no payloads, so its digest stays empty.
    """

    applied: int
    digest: bytes
    membership: Membership

    def after(self, entry: Entry, membership: Membership, *, is_witness: bool) -> Machine:
        """Return the machine after one more entry."""
        digest = NO_DIGEST if is_witness else digest_after(self.digest, entry)
        return Machine(entry.index, digest, membership)


def digest_after(digest: bytes, entry: Entry) -> bytes:
    """Return the digest of a sequence that goes on with `entry`."""
    text = b"%d %d %d " % (entry.term, entry.index, entry.kind) + entry.payload
    return hashlib.blake2b(digest + text, digest_size=8).digest()


class ChaosStorage(MemoryStorage):
    """A log store that may have no snapshot at hand, and may return fewer entries than asked for.

    `before_snapshot` is called when the core asks for one: it may make a newer one first, or raise
    SnapshotUnavailable. `fewer` draws how many of a number of entries are returned. A durable
    machine's state is kept with the log, as one unit.
    """

    __slots__ = ("before_snapshot", "fewer", "machine")

    def __init__(self, membership: Membership, before_snapshot: Callable[[], None]) -> None:
        super().__init__(membership)
        self.before_snapshot = before_snapshot
        self.fewer: Callable[[int], int] = lambda count: count
        self.machine: Machine | None = None

    def initial_state(self) -> tuple[HardState, Membership]:
        """Return the configuration of the durable machine if there is one."""
        hard_state, membership = super().initial_state()
        return hard_state, membership if self.machine is None else self.machine.membership

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot, perhaps one made just now."""
        self.before_snapshot()
        return super().snapshot()

    def newest_snapshot(self) -> Snapshot | None:
        """Return what is stored, without whims."""
        return self._snapshot if self._snapshot.index else None

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Return a prefix of what was asked for, at least one entry."""
        entries = super().entries(low, high, bytes_max)
        return entries[: self.fewer(len(entries))]

    def all_entries(self) -> list[Entry]:
        """Return everything that is held."""
        return list(self._entries)

    def holds(self, term: int, index: int) -> bool:
        """Return whether (term, index) is durable here, compacted entries included."""
        if index < self.first_index():
            return True
        return index <= self.last_index() and self.term(index) == term

    def recovered_machine(self) -> Machine:
        """Return the machine as it is after a restart."""
        if self.machine is not None:
            return self.machine
        snapshot = self.newest_snapshot()
        if snapshot is None:
            return Machine(0, NO_DIGEST, super().initial_state()[1])
        return Machine(snapshot.index, snapshot.data, snapshot.membership)


def is_same(left: Entry, right: Entry) -> bool:
    """Return whether two replicas hold the same entry; a witness may lack the payload."""
    if left[:2] != right[:2]:
        return False
    return left == right or STRIPPED in (left.kind, right.kind)


class History:
    """What was applied anywhere, and therefore must be everywhere."""

    def __init__(self, base: Snapshot | None, founders: int) -> None:
        """Begin after a founding snapshot, or with a log whose first entries are the founders."""
        self.base = 0 if base is None else base.index
        self.base_term = 0 if base is None else base.term
        # Founding entries are in force before they are applied, on the founders alone.
        self.membership_from = 0 if base is not None else founders
        self.committed: list[Entry] = []
        self.memberships: dict[int, Membership] = {}
        self.digests: dict[int, bytes] = {}
        self.proposed: dict[tuple[int, int], bytes] = {}
        self.leaders: dict[int, int] = {}
        if base is not None:
            self.memberships[base.index] = base.membership
            self.digests[base.index] = base.data

    @property
    def last_index(self) -> int:
        """Return the newest index that was applied anywhere."""
        return self.base + len(self.committed)

    def entry(self, index: int) -> Entry:
        """Return what was applied at an index."""
        return self.committed[index - self.base - 1]

    def on_applied(self, entry: Entry, machine: Machine, *, is_witness: bool) -> None:
        """Check that every replica applies the same sequence and reaches the same state."""
        if entry.index > self.last_index:
            assert entry.index == self.last_index + 1, f"nobody applied before {entry.index}"
            self.committed.append(entry)
        known = self.entry(entry.index)
        assert is_same(known, entry), f"diverged at {entry.index}: {known} and {entry}"
        if known.kind is STRIPPED:
            self.committed[entry.index - self.base - 1] = entry
        payload = self.proposed.get((entry.term, entry.index), entry.payload)
        assert entry.kind is STRIPPED or payload == entry.payload, (
            f"{entry} was proposed as {payload!r}"
        )
        self.check_machine(machine, is_witness=is_witness)

    def check_machine(self, machine: Machine, *, is_witness: bool) -> None:
        """Check a state against the first one that was seen at its index."""
        index = machine.applied
        if index >= self.membership_from:
            membership = self.memberships.setdefault(index, machine.membership)
            assert membership == machine.membership, (
                f"configurations differ at {index}: {membership} and {machine.membership}"
            )
        if not is_witness:
            digest = self.digests.setdefault(index, machine.digest)
            assert digest == machine.digest, f"machines differ at {index}"

    def check_snapshot(self, snapshot: Snapshot, *, is_witness: bool) -> None:
        """Check that a snapshot to install is a state that some replica went through."""
        assert self.base <= snapshot.index <= self.last_index, f"{snapshot} is of no known state"
        term = self.base_term if snapshot.index == self.base else self.entry(snapshot.index).term
        assert snapshot.term == term, f"{snapshot}, but term {term} was applied there"
        assert not (is_witness and snapshot.data), "a witness was sent data"
        machine = Machine(snapshot.index, snapshot.data, snapshot.membership)
        self.check_machine(machine, is_witness=is_witness)
