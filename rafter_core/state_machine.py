"""The interface that a user implements: a deterministic machine fed by the log.

The framework calls everything on one task, in log order, but for two: `save_snapshot` may run on
another thread, with what `prepare_snapshot` captured, while updates go on; `recover_from_snapshot`
may run on another thread, and nothing else that changes the state is called meanwhile.

Nothing in `update` may depend on a clock, on chance, on iteration order of sets, or on
`Update.context`: every replica must reach the same state.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import NamedTuple, Protocol


class Update(NamedTuple):
    """One committed entry.

    `context` is what the local proposer attached: None on the other replicas and after a restart.
    It may save work (an object that needs no decoding, a place to answer to) and must not change
    the outcome.
    """

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    payload: bytes
    context: object | None = None


class StateMachine(Protocol):
    """What a group replicates."""

    def open(self) -> int:
        """Load what is durable and return the index of the last applied entry, 0 for one in memory.

        Called once before anything else. The log is applied from the next index on.
        """
        ...

    def update(self, updates: list[Update]) -> list[object]:
        """Apply committed entries in order, exactly once; return one result for each, in order.

        Deterministic. An empty payload is a leader's no-op. Raising stops the shard: a command that
        is wrong is answered by its result.
        """
        ...

    def lookup(self, query: object) -> object:
        """Answer a query from the current state, without side effects."""
        ...

    def prepare_snapshot(self) -> object:
        """Capture the current state cheaply, for `save_snapshot`, between two updates."""
        ...

    def save_snapshot(self, prepared: object) -> Generator[bytes, None, None]:
        """Yield the image of the captured state in chunks; updates may go on meanwhile.

        The generator may be closed before its end. If the machine recovers from another snapshot
        meanwhile, what is yielded is thrown away.
        """
        ...

    def recover_from_snapshot(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state by an image. On error the machine is closed, never half used."""
        ...

    def close(self) -> None:
        """Release resources. Nothing is called afterwards."""
        ...

    def hash(self) -> int:
        """Return a digest of the state: equal on every replica that applied the same index."""
        ...
