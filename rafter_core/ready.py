"""The batch of effects that the core hands to its driver."""

from __future__ import annotations

from typing import NamedTuple

from rafter_core.entries import Entry, HardState
from rafter_core.messages import Message
from rafter_core.roles import Role
from rafter_core.snapshot import Snapshot


class SoftState(NamedTuple):
    """What need not be stored: whom this node follows, and what it is."""

    leader: int
    role: Role


class ReadState(NamedTuple):
    """A confirmed read: serve it from the state machine once `applied` >= `index`."""

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    context: bytes


class Ready:
    """Work that the driver must perform. Each Ready is handed out once and never repeated.

    - `number`: increases by one for each Ready of a node.
    - `soft_state`: the new leader and role, None if neither changed.
    - `hard_state`, `snapshot`, `entries`: persist them, as one unit, after those of every earlier
      Ready. Entries replace any stored entry at or after `entries[0].index`. A snapshot replaces
      the whole log and the whole state machine. None / empty: nothing to persist.
    - `must_sync`: hard state and entries have to reach the disk for real before they are
      acknowledged. A change of the commit index alone needs no sync, it can be learned again. A
      snapshot must be durable in any case.
    - `messages`: asynchronous mode: send at once, in parallel with the writing. Synchronous mode:
      send after the writing.
    - `messages_after_sync`: asynchronous mode only: send once this Ready *and every earlier one*
      are durable: they are the promises (votes, acknowledgements) that rest on what was persisted.
      They may acknowledge entries of an earlier Ready, so they wait even if this Ready has nothing
      to persist itself.
    - `committed`: apply in order, exactly once. In the asynchronous mode they are durable on this
      replica already, and may be applied while later Readys are being stored. What is not applied
      when a snapshot is installed is covered by it, and skipped.
    - `read_states`: reads to serve once their index is applied.
    """

    __slots__ = (
        "_last_index",
        "_last_term",
        "_node_id",
        "_responses",
        "_term",
        "committed",
        "entries",
        "hard_state",
        "messages",
        "messages_after_sync",
        "must_sync",
        "number",
        "read_states",
        "snapshot",
        "soft_state",
    )

    def __init__(
        self,
        node_id: int,
        number: int,
        soft_state: SoftState | None,
        hard_state: HardState | None,
        snapshot: Snapshot | None,
        entries: list[Entry],
        must_sync: bool,
        messages: list[Message],
        messages_after_sync: list[Message],
        committed: list[Entry],
        read_states: list[ReadState],
        term: int,
        last_term: int,
        last_index: int,
        responses: list[Message],
    ) -> None:
        self.number = number
        self.soft_state = soft_state
        self.hard_state = hard_state
        self.snapshot = snapshot
        self.entries = entries
        self.must_sync = must_sync
        self.messages = messages
        self.messages_after_sync = messages_after_sync
        self.committed = committed
        self.read_states = read_states
        # The private part belongs to the node that made this Ready: the term it was made in, the
        # last log entry that is durable once it is stored (0, 0 if all was stored before), and all
        # that becomes due by then, this node's votes and acknowledgements for itself included.
        self._node_id = node_id
        self._term = term
        self._last_term = last_term
        self._last_index = last_index
        self._responses = responses

    @property
    def needs_storage(self) -> bool:
        """Return whether there is anything to persist."""
        return self.hard_state is not None or self.snapshot is not None or bool(self.entries)

    def __repr__(self) -> str:
        return (
            f"<Ready {self.number} hard_state={self.hard_state} snapshot={self.snapshot} "
            f"entries={len(self.entries)} must_sync={self.must_sync} "
            f"messages={len(self.messages)} "
            f"messages_after_sync={len(self.messages_after_sync)} committed={len(self.committed)} "
            f"read_states={len(self.read_states)}>"
        )
