"""The log of one group, as the raft core reads it."""

from rafter_core.entries import Entry, HardState, entries_bytes, limit_bytes
from rafter_core.errors import Compacted, SnapshotUnavailable, Unavailable
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.errors import CorruptionError, Damage
from rafter_storage.index import GroupIndex, Slot
from rafter_storage.reader import RecordReader
from rafter_storage.recent import RecentEntries

__all__ = ["GroupLog", "GroupState"]


class GroupState:
    """What a shard knows of one group: owned by the segment manager, read by the group's log.

    ``begun_*`` run ahead of the rest: they count writes that were begun and are not complete.
    """

    __slots__ = ("begun_hard_state", "begun_last_index", "group", "hard_state", "index", "recent")

    def __init__(self, group: int, tail_bytes_max: int) -> None:
        self.group = group
        self.hard_state = HardState()
        self.begun_hard_state = self.hard_state
        self.begun_last_index = 0
        self.index = GroupIndex()
        self.recent = RecentEntries(tail_bytes_max)


class GroupLog:
    """The stored log of one group: ``rafter_core``'s ``LogStorage``.

    Shows the writes that are complete, and no others. Entries in the in-memory tail are returned
    from there; older ones are read from disk and checked, on the calling thread. Owner thread
    only. Nothing has been compacted yet, so the log begins at index 1.

    Raises ``Compacted`` below the log, ``Unavailable`` above it, ``CorruptionError`` when bytes on
    disk are not what was written, and ``StorageError`` when they cannot be read.
    """

    __slots__ = ("_index", "_membership", "_reader", "_recent", "_state")

    def __init__(self, state: GroupState, membership: Membership, reader: RecordReader) -> None:
        self._state = state
        self._index = state.index
        self._recent = state.recent
        self._membership = membership
        self._reader = reader

    @property
    def group(self) -> int:
        """The group's id."""
        return self._state.group

    def initial_state(self) -> tuple[HardState, Membership]:
        """Return the newest complete hard state, and the membership the log was opened with."""
        return self._state.hard_state, self._membership

    def first_index(self) -> int:
        """Return the first index that the log holds or, when empty, will hold."""
        return self._index.first_index

    def last_index(self) -> int:
        """Return the last index that the log holds; ``first_index() - 1`` when empty."""
        return self._index.last_index

    def term(self, index: int) -> int:
        """Return the term at ``index``. Never touches the disk."""
        log = self._index
        if log.first_index <= index <= log.last_index:
            return log.term(index)
        if index == log.first_index - 1:
            return 0
        if index < log.first_index:
            raise Compacted(f"index {index} is before the first index {log.first_index}")
        raise Unavailable(f"index {index} is beyond the last index {log.last_index}")

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Return the entries [low, high), as many as fit ``bytes_max``, but at least one."""
        log = self._index
        if low < log.first_index:
            raise Compacted(f"index {low} is before the first index {log.first_index}")
        if high > log.last_index + 1:
            raise Unavailable(f"index {high - 1} is beyond the last index {log.last_index}")
        if low >= high:
            return []
        if low >= self._recent.first_index:
            return limit_bytes(self._recent.slice(low, high), bytes_max)
        return self._stored_entries(low, high, bytes_max)

    def snapshot(self) -> Snapshot:
        """Raise ``SnapshotUnavailable``: the log is kept whole, so nobody needs one."""
        raise SnapshotUnavailable("this log holds every entry and makes no snapshots")

    def _stored_entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Collect entries record by record from disk, and from memory where that begins."""
        picked: list[Entry] = []
        bytes_picked = 0
        position = self._index.position(low)
        while low < high and bytes_picked <= bytes_max:
            if low >= self._recent.first_index:
                picked += self._recent.slice(low, high)
                break
            slot = self._index.slot(position)
            stored = self._read(slot)
            end = min(high, slot.last_index + 1)
            part = stored[low - slot.first_index : end - slot.first_index]
            bytes_picked += entries_bytes(part)
            picked += part
            low = end
            position += 1
        return limit_bytes(picked, bytes_max)

    def _read(self, slot: Slot) -> list[Entry]:
        """Read a slot's record and hold it against the index."""
        group = self._state.group
        stored = self._reader.read(group, slot.sequence, slot.offset, slot.length)
        if stored[0].index != slot.first_index or stored[-1].index < slot.last_index:
            path = self._reader.path(slot.sequence)
            reason = (
                f"the record holds the entries {stored[0].index} to {stored[-1].index}, "
                f"the index expects {slot.first_index} to {slot.last_index}"
            )
            raise CorruptionError(Damage(path, slot.offset, reason), group)
        return stored
