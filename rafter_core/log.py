"""The log of one replica: unstable entries over the stored log, and the marks that move along it.

    first ... applied ... applying ... committed ... last       (applied <= applying <= committed
    <= last)

`applying` is what was handed out to be applied. In the asynchronous mode only entries that are
durable on this replica are handed out, even if a quorum of others committed them before; in the
synchronous mode the driver stores a Ready before it applies it, so they may come in one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from rafter_core.entries import Entry, entries_bytes, limit_bytes, payloads_bytes
from rafter_core.errors import Compacted, InvariantError, Unavailable
from rafter_core.snapshot import Snapshot
from rafter_core.storage import LogStorage
from rafter_core.unstable import Unstable


class RaftLog:
    """The log of a replica: unstable entries are read from memory, the rest from storage."""

    __slots__ = (
        "_applying_batches",
        "_applying_bytes",
        "_applying_bytes_max",
        "_is_applying_paused",
        "_is_unstable_applied",
        "_storage",
        "applied",
        "applying",
        "committed",
        "unstable",
    )

    def __init__(
        self,
        storage: LogStorage,
        commit: int,
        applied: int,
        applying_bytes_max: int,
        *,
        is_unstable_applied: bool = False,
    ) -> None:
        """Start from what is stored. Raises InvariantError if the marks do not fit it."""
        first = storage.first_index()
        last = storage.last_index()
        # The commit index is not synced for its own sake, so a machine that is durable by itself
        # may be ahead of the one on disk; what it applied was committed.
        commit = max(commit, applied)
        if commit > last:
            raise InvariantError(
                f"commit or applied index {commit} is beyond the last stored index {last}: "
                "the log was truncated or lost"
            )
        if applied < first - 1:
            raise InvariantError(
                f"applied index {applied} is before the first stored index {first}: "
                "the entries between them are gone"
            )
        self._storage = storage
        self.unstable = Unstable(last + 1, storage.term(last))
        self.committed = commit
        self.applied = self.applying = applied
        self._is_unstable_applied = is_unstable_applied
        self._applying_bytes_max = applying_bytes_max
        self._applying_bytes = 0
        self._is_applying_paused = False
        # (last index, bytes, payload bytes) of each batch that is handed out and not applied yet.
        self._applying_batches: deque[tuple[int, int, int]] = deque()

    # -- reading

    @property
    def first_index(self) -> int:
        """Return the first index that is not compacted."""
        snapshot = self.unstable.snapshot
        return self._storage.first_index() if snapshot is None else snapshot.index + 1

    @property
    def last_index(self) -> int:
        """Return the index of the last entry, durable or not."""
        unstable = self.unstable
        return unstable.offset + len(unstable.entries) - 1

    @property
    def last_term(self) -> int:
        """Return the term of the last entry, 0 for an empty log."""
        unstable = self.unstable
        return unstable.entries[-1].term if unstable.entries else unstable.previous_term

    @property
    def stable_index(self) -> int:
        """Return the last index known to be durable here."""
        return self.unstable.offset - 1

    def term(self, index: int) -> int:
        """Return the term of the entry at `index`. Raises Compacted or Unavailable."""
        unstable = self.unstable
        position = index - unstable.offset
        if position >= 0:
            if position < len(unstable.entries):
                return unstable.entries[position].term
            raise Unavailable(f"index {index} is beyond the last index {self.last_index}")
        if position == -1:
            return unstable.previous_term
        if unstable.snapshot is not None:
            raise Compacted(f"index {index} is before the snapshot at {unstable.snapshot.index}")
        return self._storage.term(index)

    def matches(self, term: int, index: int) -> bool:
        """Return whether the log holds exactly the entry (term, index)."""
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def is_up_to_date(self, term: int, index: int) -> bool:
        """Return whether a log that ends in (term, index) is at least as complete (paper 5.4.1)."""
        last_term = self.last_term
        return term > last_term or (term == last_term and index >= self.last_index)

    def slice(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Return entries [low, high) within `bytes_max`, at least one. Raises Compacted."""
        if not low < high <= self.last_index + 1:
            raise InvariantError(f"slice [{low}, {high}) is out of bounds, last {self.last_index}")
        unstable = self.unstable
        offset = unstable.offset
        if low >= offset:
            return limit_bytes(unstable.entries[low - offset : high - offset], bytes_max)
        if unstable.snapshot is not None:
            raise Compacted(f"index {low} is before the snapshot at {unstable.snapshot.index}")
        stored = self._stored(low, min(high, offset), bytes_max)
        if high <= offset or len(stored) < offset - low:
            return stored
        return limit_bytes(stored + unstable.entries[: high - offset], bytes_max)

    def scan(self, low: int, high: int, page_bytes: int) -> Iterator[list[Entry]]:
        """Yield entries [low, high) in pages, so that a long scan holds one page at a time."""
        while low < high:
            page = self.slice(low, high, page_bytes)
            yield page
            low += len(page)

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot. Raises SnapshotUnavailable."""
        return self.unstable.snapshot or self._storage.snapshot()

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """Return the last (index, term) at or before `index` whose term is at most `term`.

        Everything after it surely conflicts with a log whose entry at `index` has `term`: this
        skips a whole term for each rejected append. Term 0 stands for "compacted, unknown".
        """
        while index > 0:
            try:
                own_term = self.term(index)
            except (Compacted, Unavailable):
                return index, 0
            if own_term <= term:
                return index, own_term
            index -= 1
        return 0, 0

    # -- appending

    def append(self, entries: Sequence[Entry]) -> None:
        """Append entries at the end: only a leader does this, in its own term."""
        self.unstable.entries.extend(entries)

    def maybe_append(
        self, term: int, index: int, entries: Sequence[Entry], commit: int
    ) -> int | None:
        """Append a leader's entries after (term, index). Return the last index that matches now.

        None means that the log does not hold (term, index). Entries that are present already are
        never cut: only a real conflict truncates. The commit index advances no further than what
        this message verified.
        """
        if not self.matches(term, index):
            return None
        last_new = index + len(entries)
        if entries:
            self._append_after(term, index, entries)
        if commit > self.committed:
            self.commit_to(min(commit, last_new))
        return last_new

    def _append_after(self, previous_term: int, index: int, entries: Sequence[Entry]) -> None:
        position = 0
        if index < self.last_index:
            # Skip what is here already; a delayed append must not cut newer entries
            # (redpanda#17895).
            for entry in entries:
                if not self.matches(entry.term, entry.index):
                    break
                position += 1
            if position == len(entries):
                return
            if entries[position].index <= self.committed:
                raise InvariantError(
                    f"entry {entries[position].index} conflicts with a committed entry "
                    f"(committed {self.committed})"
                )
            if position:
                previous_term = entries[position - 1].term
                entries = entries[position:]
        self.unstable.truncate_and_append(entries, previous_term)

    def commit_to(self, index: int) -> None:
        """Advance the commit index; it never goes back."""
        if index <= self.committed:
            return
        if index > self.last_index:
            raise InvariantError(
                f"commit index {index} is beyond the last index {self.last_index}: "
                "the log was corrupted, truncated or lost"
            )
        self.committed = index

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot; what it covers is committed."""
        self.committed = snapshot.index
        self.unstable.restore(snapshot)

    # -- handing out

    def has_committed(self) -> bool:
        """Return whether `take_committed` would return anything."""
        return (
            self._appliable() > self.applying
            and not self._is_applying_paused
            and self.unstable.snapshot is None
        )

    def take_committed(self) -> list[Entry]:
        """Return the next committed entries to apply, within the byte budget.

        The budget counts everything handed out and not applied yet, so a slow state machine bounds
        memory; once a batch was cut for it, the next one waits for some to be applied. Entries are
        handed out once, in order, and none while a snapshot waits to become durable.
        """
        if not self.has_committed():
            return []
        low = self.applying + 1
        limit = self._appliable()
        entries = self.slice(low, limit + 1, self._applying_bytes_max - self._applying_bytes)
        self.applying = entries[-1].index
        size_bytes = entries_bytes(entries)
        self._applying_bytes += size_bytes
        self._applying_batches.append((self.applying, size_bytes, payloads_bytes(entries)))
        self._is_applying_paused = (
            self._applying_bytes >= self._applying_bytes_max or self.applying < limit
        )
        return entries

    def applied_to(self, index: int) -> int:
        """Record that entries up to `index` are applied; return the payload bytes that this frees.

        Bytes are freed by whole batches of `take_committed`. An index that a snapshot has overtaken
        moves nothing.
        """
        if index > self.applying:
            raise InvariantError(f"applied index {index} is beyond {self.applying}, handed out")
        self.applied = max(self.applied, index)
        freed = 0
        batches = self._applying_batches
        while batches and batches[0][0] <= index:
            _, size_bytes, payload_bytes = batches.popleft()
            self._applying_bytes -= size_bytes
            freed += payload_bytes
        self._is_applying_paused = self._applying_bytes >= self._applying_bytes_max
        return freed

    def snapshot_stored(self, index: int) -> None:
        """Record that the snapshot of this index is durable, and the machine recovered from it."""
        self.unstable.stable_snapshot_to(index)
        if index > self.applied:
            self.applied = index
            self.applying = max(self.applying, index)

    def _appliable(self) -> int:
        """Return the last index that may be handed out to be applied."""
        if self._is_unstable_applied:
            return self.committed
        return min(self.committed, self.unstable.offset - 1)

    def _stored(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Read from storage what must be there, and check the ends of what it returned."""
        try:
            entries = self._storage.entries(low, high, bytes_max)
        except Unavailable as error:
            raise InvariantError(f"entries [{low}, {high}) must be in storage: {error}") from error
        if not entries or entries[0].index != low or entries[-1].index != low + len(entries) - 1:
            raise InvariantError(f"storage returned other entries than [{low}, {high})")
        if len(entries) > high - low:
            raise InvariantError(f"storage returned more entries than [{low}, {high})")
        return entries
