"""What the core tells an observer: notable events, through an injected sink, never by logging.

A sink must not call back into the node and must not raise; it may be slow only at its caller's
cost. Without a sink the hot paths format no text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class TraceEvent(NamedTuple):
    """One notable event of a replica: `name` for programs, stable; `detail` for people."""

    node: int
    term: int
    name: str
    detail: str


TraceSink = Callable[[TraceEvent], None]
