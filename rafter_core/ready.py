"""The batch of effects that the core hands to its driver."""

from __future__ import annotations

from typing import NamedTuple

from rafter_core.entries import Entry, HardState
from rafter_core.messages import Message


class ReadState(NamedTuple):
    """A confirmed read: serve it from the state machine once `applied` >= `index`."""

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    context: bytes


class Ready:
    """Work that the driver must perform. Each Ready is handed out once and never repeated.

    - `number`: increases by one for each Ready of a node.
    - `hard_state`, `entries`: persist both, as one unit, after those of every earlier Ready.
      Entries replace any stored entry at or after `entries[0].index`. None / empty: nothing to
      persist.
    - `must_sync`: what is persisted has to reach the disk for real before `storage_done`. A
      change of the commit index alone needs no sync, it can be learned again.
    - `messages`: send at once, in parallel with the writing.
    - `messages_after_sync`: send once this Ready *and every earlier one* are durable: they are
      the promises (votes, acknowledgements) that rest on what was persisted. They may acknowledge
      entries of an earlier Ready, so they wait even if this Ready has nothing to persist itself.
    - `committed`: apply in order, exactly once, then call `apply_done` with the last index. They
      are durable on this replica already, and may be applied while later Readys are being stored.
    - `read_states`: reads to serve once their index is applied.

    `storage_done(ready)` is called for every Ready, in order of `number`, also for those that had
    nothing to persist: the node's own vote and acknowledgement ride on it.
    """

    __slots__ = (
        "_acknowledgements",
        "_last_index",
        "_last_term",
        "_term",
        "committed",
        "entries",
        "hard_state",
        "messages",
        "messages_after_sync",
        "must_sync",
        "number",
        "read_states",
    )

    def __init__(
        self,
        number: int,
        hard_state: HardState | None,
        entries: list[Entry],
        must_sync: bool,
        messages: list[Message],
        messages_after_sync: list[Message],
        committed: list[Entry],
        read_states: list[ReadState],
        term: int,
        last_term: int,
        last_index: int,
        acknowledgements: list[Message],
    ) -> None:
        self.number = number
        self.hard_state = hard_state
        self.entries = entries
        self.must_sync = must_sync
        self.messages = messages
        self.messages_after_sync = messages_after_sync
        self.committed = committed
        self.read_states = read_states
        # The private part belongs to the node that made this Ready: the term it was made in and the
        # last log entry that is durable once it is stored (0, 0 if all was stored before), and the
        # votes this node cast for itself.
        self._term = term
        self._last_term = last_term
        self._last_index = last_index
        self._acknowledgements = acknowledgements

    @property
    def needs_storage(self) -> bool:
        """Return whether there is anything to persist."""
        return self.hard_state is not None or bool(self.entries)

    def __repr__(self) -> str:
        return (
            f"<Ready {self.number} hard_state={self.hard_state} entries={len(self.entries)} "
            f"must_sync={self.must_sync} messages={len(self.messages)} "
            f"messages_after_sync={len(self.messages_after_sync)} committed={len(self.committed)} "
            f"read_states={len(self.read_states)}>"
        )
