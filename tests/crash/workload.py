"""A drawn workload: everything that a node may ask of its log and its snapshots, in any order.

Everything follows from the seed. What is asked is always legal: the model tells what is.
"""

from __future__ import annotations

import errno
import random

from rafter_core.entries import Entry, EntryKind, HardState
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.errors import Poisoned
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.segment_manager import FoundedGroup, GroupChange, GroupWrite
from rafter_storage.snapshot_store import SnapshotKind
from tests.crash.model import FOUNDING, GroupModel
from tests.crash.node import Node
from tests.storage.fake_file_system import Crashed, CrashMode

__all__ = ["Workload"]

_GROUPS = range(1, 7)
_FOUNDED = range(7, 10)
_COLD = 1
"""A group that is written to rarely: it is what pins the oldest segment."""
_MEMBERSHIPS = tuple(Membership((1, 2, node)) for node in range(3, 8))
_MODES = (CrashMode.TORN, CrashMode.REORDERED, CrashMode.LOST, CrashMode.KEPT)


class Workload:
    """Lets a node do ``steps`` drawn steps."""

    def __init__(self, node: Node, seed: int) -> None:
        self._node = node
        self._draw = random.Random(f"workload {seed}")
        self._actions = {
            self.write: 30,
            self.write_pipelined: 14,
            self.write_beyond_segment: 2,
            self.change_membership: 4,
            self.take_snapshot: 12,
            self.install_snapshot: 4,
            self.remove_group: 2,
            self.found_group: 2,
            self.keep_house: 16,
            self.clean: 10,
            self.reopen: 3,
            self.crash_in_job: 3,
            self.kill_in_job: 3,
            self.fail_sync: 1,
            self.fill_disk: 1,
        }

    def run(self, steps: int) -> None:
        """Do them, and close the node at the end."""
        node, draw = self._node, self._draw
        node.start()
        actions, weights = [*self._actions], [*self._actions.values()]
        for action in draw.choices(actions, weights, k=steps):
            node.counts[action.__name__] += 1
            action()
        node.stop()

    # Writes.

    def write(self) -> None:
        """One job of several groups."""
        self._node.do(self._writes(self._draw.randint(1, 4)))

    def write_pipelined(self) -> None:
        """Jobs that are begun while others are on their way, with housekeeping in between."""
        draw = self._draw
        begin = self._node.begin
        jobs = [begin(self._writes(draw.randint(1, 3))) for _ in range(draw.randint(2, 3))]
        for job in jobs:
            job.run()
            job.complete()
            self._node.keep_house(draw.randint(0, 3))

    def write_beyond_segment(self) -> None:
        """A job that does not fit an ordinary segment, or nearly fills one."""
        group, state = self._drawn_group()
        size = self._draw.choice([20_000, 50_000, 80_000])
        entry = self._entry(group, state.last_index + 1, max(state.hard_state.term, 1), size)
        hard_state = state.hard_state._replace(term=entry.term)
        self._node.do([GroupWrite(group, hard_state, [entry])])

    def change_membership(self) -> None:
        """An entry, and the configuration that it brings."""
        group, state = self._drawn_group()
        write = self._append(group, state)
        change = GroupChange(group, membership=(write.entries[-1].index, self._membership()))
        self._node.do([write], [change])

    def clean(self) -> None:
        """What an idle log does: rewrite forward what is cold, and let go of old segments.

        A job that rolls is on its way behind it.
        """
        node, draw = self._node, self._draw
        if not node.manager.needs_cleaning:
            return
        job = node.begin([])
        group, state = self._drawn_group()
        term = max(state.hard_state.term, 1)
        entry = self._entry(group, state.last_index + 1, term, draw.choice([100, 30_000, 60_000]))
        later = node.begin([GroupWrite(group, state.hard_state._replace(term=term), [entry])])
        for each in (job, later):
            each.run()
            each.complete()
            node.keep_house(draw.randint(0, 4))

    def keep_house(self) -> None:
        """Spares, dumps, segments to retire."""
        self._node.keep_house(self._draw.randint(1, 6))

    # Snapshots, and groups that come and go.

    def take_snapshot(self) -> None:
        """Take one of what is committed, tell the log, cut the log, retire older ones."""
        node, draw = self._node, self._draw
        group, state = self._drawn_group()
        newest = node.store.newest(group)
        index = state.hard_state.commit
        if index <= max(state.metadata.base_index, 0 if newest is None else newest.index):
            return
        term = state.term(index)
        node.take_snapshot(group, index, term, self._data(), SnapshotKind.TAKING)
        compact_to = node.store.compactable_index(group)
        change = GroupChange(group, snapshot=(index, term), compact_to=compact_to)
        if draw.random() < 0.5:
            node.do([], [change._replace(compact_to=0)])
            change = change._replace(snapshot=None)
        others = self._writes(draw.randint(0, 2))
        node.do(others, [change])
        # Only what is durable may be relied on.
        node.do([self._vote(*self._drawn_group())])
        node.retire_snapshots(group)

    def install_snapshot(self) -> None:
        """Receive one beyond the log, and begin anew behind it, perhaps with entries."""
        node, draw = self._node, self._draw
        group, state = self._drawn_group()
        newest = node.store.newest(group)
        index = max(state.hard_state.commit, 0 if newest is None else newest.index)
        index += draw.choice([1, 2, 30])
        term = max(state.hard_state.term, 1)
        self._receive(group, index, term)
        state = node.history.newest.get(group, GroupModel())
        if draw.random() < 0.2:
            # It has come and is not the log's.
            node.crash(draw.choice(_MODES), draw)
            return
        count = draw.choice([0, 0, 1, 3])
        entries = [self._entry(group, index + 1 + n, term) for n in range(count)]
        commit = draw.randint(index, index + count)
        hard_state = state.hard_state._replace(term=term, commit=commit)
        write = GroupWrite(group, hard_state, entries, Snapshot(index, term, FOUNDING))
        node.do([write, *self._writes(1, group)])
        # The index of the configuration is in the snapshot, and not in the message that brings it.
        membership = draw.randint(0, index), FOUNDING
        node.do([], [GroupChange(group, membership, snapshot=(index, term))])
        node.do([self._vote(*self._drawn_group())])
        node.retire_snapshots(group)

    def _receive(self, group: int, index: int, term: int) -> None:
        """Receive a snapshot; the node may stop in the middle of it, once or several times."""
        node, draw = self._node, self._draw
        data = self._data()
        while True:
            chunks_left = draw.choice([0, 1, 2, 99, 99])
            for _ in node.receive_snapshot(group, index, term, data):
                if not chunks_left:
                    break
                chunks_left -= 1
            else:
                return
            node.counts["received in part"] += 1
            if draw.random() < 0.5:
                node.kill()
            else:
                node.crash(draw.choice(_MODES), draw)

    def remove_group(self) -> None:
        """Forget a group; what is written to it later makes it anew."""
        node = self._node
        present = sorted(node.history.newest)
        if len(present) < 4:
            return
        group = self._draw.choice(present)
        node.do([], [GroupChange(group, is_removed=True)])
        node.do([self._vote(*self._drawn_group(group))])
        node.remove_snapshots(group)

    def found_group(self) -> None:
        """Let a group begin here with the state that it had elsewhere."""
        node, draw = self._node, self._draw
        group = draw.choice(_FOUNDED)
        if group in node.history.newest:
            return
        index, term = draw.choice([(0, 0), (40, 3)])
        metadata = GroupMetadata(0, 0, ((0, FOUNDING),))
        if index:
            node.take_snapshot(group, index, term, self._data(), SnapshotKind.IMPORTING)
            metadata = GroupMetadata(index, term, ((index, FOUNDING),), index, term)
        entries = [self._entry(group, index + n, 4) for n in range(1, draw.randint(2, 5))]
        writes = [GroupWrite(group, None, entries)]
        writes.append(GroupWrite(group, HardState(5, 2, index + draw.randint(0, len(entries)))))
        node.do(writes, [], [FoundedGroup(group, metadata, HardState(5, 2, index))])

    # The end of a process.

    def reopen(self) -> None:
        """Stop and start."""
        self._node.stop()
        self._node.start()

    def crash_in_job(self) -> None:
        """Let the machine stop in a job; then work goes on, perhaps with the same writes."""
        writes = self._break_off()
        self._node.crash(self._draw.choice(_MODES), self._draw)
        self._repeat(writes)

    def kill_in_job(self) -> None:
        """Let the process stop in a job: nothing is lost, and not everything is durable."""
        writes = self._break_off()
        self._node.kill()
        self._repeat(writes)

    def fail_sync(self) -> None:
        """Let a sync fail: nothing is acknowledged, and the process starts again."""
        node = self._node
        # Whichever comes first: it ends the log.
        for method in ("sync_data", "write_synced"):
            node.files.fake.fail(method, 1, errno.EIO)
        writes = self._writes(self._draw.randint(1, 3))
        try:
            node.do(writes)
        except Poisoned:
            node.counts["poisoned"] += 1
        node.files.fake.clear_failures()
        node.kill()
        self._repeat(writes)

    def fill_disk(self) -> None:
        """Let there be no room for the next segment, once."""
        method = self._draw.choice(["allocate", "rename"])
        is_new = ".tmp", ".free"
        files = self._node.files.fake
        files.fail(method, 1, errno.ENOSPC, lambda path: path.suffix in is_new)
        full = self._node.counts["disk full"]
        for _ in range(4):
            self.write_beyond_segment()
            if self._node.counts["disk full"] > full:
                break
        files.clear_failures()

    def _break_off(self) -> list[GroupWrite]:
        node, draw = self._node, self._draw
        writes = self._writes(draw.randint(1, 4))
        job = node.begin(writes)
        node.files.fake.stop_at = node.files.fake.operations + draw.randint(1, 3)
        node.files.fake.stopped_write_pieces = draw.choice([0, 0, 1, 3])
        try:
            job.run()
        except (Crashed, Poisoned):
            node.counts["broken off"] += 1
        node.files.fake.stop_at = None
        return writes

    def _repeat(self, writes: list[GroupWrite]) -> None:
        """Do the first write again if none of that job has survived, as a leader would ask."""
        group, hard_state, entries, _ = writes[0]
        state = self._node.history.newest.get(group, GroupModel())
        before = state.hard_state
        is_next = not entries or before.commit < entries[0].index <= state.last_index + 1
        after = hard_state or before
        last_index = entries[-1].index if entries else state.last_index
        is_same_life = after == before._replace(commit=after.commit)
        is_legal = (
            (after.term > before.term or is_same_life)
            and before.commit <= after.commit <= last_index
            and (not entries or after.term >= entries[-1].term)
        )
        if is_next and is_legal:
            self._node.counts["repeated"] += 1
            self._node.do(writes[:1])

    # Drawing.

    def _drawn_group(self, excluded: int = 0) -> tuple[int, GroupModel]:
        groups = [group for group in {*_GROUPS, *self._node.history.newest} if group != excluded]
        groups.sort()
        group = self._draw.choice(groups)
        if group == _COLD and self._draw.random() < 0.8:
            group = groups[-1]
        return group, self._node.history.newest.get(group, GroupModel())

    def _writes(self, count: int, excluded: int = 0) -> list[GroupWrite]:
        drawn = {}
        for _ in range(count):
            group, state = self._drawn_group(excluded)
            kinds = [self._append, self._append, self._append, self._replace, self._vote,
                     self._commit]  # fmt: skip
            drawn[group] = self._draw.choice(kinds)(group, state)
        return [*drawn.values()]

    def _append(self, group: int, state: GroupModel) -> GroupWrite:
        return self._entries(group, state, state.last_index + 1)

    def _replace(self, group: int, state: GroupModel) -> GroupWrite:
        """Replace a part of what is not committed, in a new term."""
        first_index = self._draw.randint(state.hard_state.commit + 1, state.last_index + 1)
        hard_state = HardState(state.hard_state.term + 1, 0, state.hard_state.commit)
        write = self._entries(group, state._replace(hard_state=hard_state), first_index)
        return write._replace(hard_state=write.hard_state or hard_state)

    def _entries(self, group: int, state: GroupModel, first_index: int) -> GroupWrite:
        draw = self._draw
        term, vote, commit = state.hard_state
        term = max(term, 1)
        oldest = max(state.term(first_index - 1), 1)
        count = draw.choice([1, 1, 2, 3, 6])
        # A follower that catches up gets entries of several terms at once.
        terms = sorted(draw.randint(oldest, term) for _ in range(count))
        if draw.random() < 0.7:
            terms = [term] * count
        entries = [self._entry(group, first_index + n, terms[n]) for n in range(count)]
        if draw.random() < 0.5:
            commit = draw.randint(commit, entries[-1].index)
        hard_state = HardState(term, vote, commit)
        is_same = hard_state == state.hard_state and draw.random() < 0.5
        return GroupWrite(group, None if is_same else hard_state, entries)

    def _vote(self, group: int, state: GroupModel) -> GroupWrite:
        term, vote, commit = state.hard_state
        if vote == 0 and self._draw.random() < 0.5:
            return GroupWrite(group, HardState(max(term, 1), 2, commit))
        return GroupWrite(group, HardState(term + 1, self._draw.randint(0, 3), commit))

    def _commit(self, group: int, state: GroupModel) -> GroupWrite:
        commit = self._draw.randint(state.hard_state.commit, state.last_index)
        return GroupWrite(group, state.hard_state._replace(commit=commit))

    def _membership(self) -> Membership:
        return self._draw.choice(_MEMBERSHIPS)

    def _entry(self, group: int, index: int, term: int, size: int | None = None) -> Entry:
        if size is None:
            size = self._draw.choice([0, 20, 100, 400, 1000, 3000, 8000])
        # The drawn part tells entries of one place apart that were written in different lives.
        text = b"%d/%d/%d/%d/" % (group, index, term, self._draw.getrandbits(32))
        return Entry(term, index, EntryKind.NORMAL, text.ljust(size, b"."))

    def _data(self) -> bytes:
        return self._draw.randbytes(self._draw.choice([0, 10, 700, 2500]))
