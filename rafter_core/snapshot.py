"""A snapshot as the core sees it: a place in the log, the configuration there, opaque data."""

from __future__ import annotations

from typing import NamedTuple

from rafter_core.membership import Membership


class Snapshot(NamedTuple):
    """The state after applying the log up to (term, index).

    `data` is whatever the driver's state machine and transport agree on: an image, or a few bytes
    that name a file which travels another way. It is empty in a snapshot for a witness.
    """

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int
    membership: Membership
    data: bytes = b""

    def __repr__(self) -> str:
        return (
            f"<Snapshot {self.term}/{self.index} {self.membership} data of {len(self.data)} bytes>"
        )
