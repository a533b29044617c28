"""One turn of a selectors loop whose data are callbacks."""

from __future__ import annotations

import selectors
from collections.abc import Callable

Callback = Callable[[int], None]
"""Takes the mask of events; registered as the data of a descriptor."""


def run_turn(selector: selectors.BaseSelector, timeout_seconds: float | None = None) -> None:
    """Wait for events and call the callbacks of those descriptors.

    A callback may register and unregister, itself and others: one that an earlier callback of this
    turn has unregistered, or whose number now belongs to another descriptor, is not called.
    """
    for key, mask in selector.select(timeout_seconds):
        current = selector.get_map().get(key.fd)
        if current is not None and current.fileobj is key.fileobj:
            current.data(mask)
