"""The log of one group, as the raft core reads it."""

from rafter_core.entries import Entry, HardState, entries_bytes, limit_bytes
from rafter_core.errors import Compacted, SnapshotUnavailable, Unavailable
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.errors import CorruptionError, Damage
from rafter_storage.group_state import GroupState
from rafter_storage.index import Slot
from rafter_storage.reader import RecordReader

__all__ = ["GroupLog"]


class GroupLog:
    """The stored log of one group: ``rafter_core``'s ``LogStorage``.

    Shows the writes that are complete, and no others. Entries in the in-memory tail are returned
    from there; older ones are read from disk and checked, on the calling thread. Owner thread
    only.

    Raises ``Compacted`` below the log, ``Unavailable`` above it, ``CorruptionError`` when bytes on
    disk are not what was written, and ``StorageError`` when they cannot be read.
    """

    __slots__ = ("_applied", "_founding", "_index", "_membership", "_reader", "_recent", "_state")

    def __init__(
        self,
        state: GroupState,
        founding: Membership,
        applied: int,
        reader: RecordReader,
        membership: Membership | None = None,
    ) -> None:
        self._state = state
        self._index = state.index
        self._recent = state.recent
        self._founding = founding
        self._applied = applied
        self._membership = membership
        self._reader = reader

    @property
    def group(self) -> int:
        """The group's id."""
        return self._state.group

    def initial_state(self) -> tuple[HardState, Membership]:
        """Return the newest complete hard state, and the configuration as of what is applied."""
        known = self._membership
        if known is None:
            known = self._state.metadata.membership_at(self._applied)
        return self._state.hard_state, self._founding if known is None else known

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
            return self._state.metadata.base_term
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
        """Return the newest durable snapshot as the log knows it, with an empty ``data``.

        Raises ``SnapshotUnavailable`` if there is none.
        """
        metadata = self._state.metadata
        index = metadata.snapshot_index
        if not index:
            raise SnapshotUnavailable(f"group {self.group} has no snapshot yet")
        recorded = metadata.membership_at(index)
        membership = self._founding if recorded is None else recorded
        return Snapshot(index, metadata.snapshot_term, membership)

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
            first_index = stored[0].index
            part = stored[low - first_index : end - first_index]
            bytes_picked += entries_bytes(part)
            picked += part
            low = end
            position += 1
        return limit_bytes(picked, bytes_max)

    def _read(self, slot: Slot) -> list[Entry]:
        """Read a slot's record and hold it against the index."""
        group = self._state.group
        stored = self._reader.read(group, slot.sequence, slot.offset, slot.length)
        if stored[0].index > slot.first_index or stored[-1].index < slot.last_index:
            path = self._reader.path(slot.sequence)
            reason = (
                f"the record holds the entries {stored[0].index} to {stored[-1].index}, "
                f"the index expects {slot.first_index} to {slot.last_index}"
            )
            raise CorruptionError(Damage(path, slot.offset, reason), group)
        return stored
