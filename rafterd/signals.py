"""Signals as bytes on a socket, for a selectors loop: none is lost, none interrupts anything."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable
from types import FrameType

RECEIVE_BYTES = 4096


class SignalPipe:
    """Turns signals into readable bytes while it is open. Main thread only, one at a time.

    A full socket loses bytes, not facts: it then holds thousands of unread signals, and those that
    matter (stop, a child died) are asked for by state, not counted.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(
            self._writer.fileno(), warn_on_full_buffer=False
        )
        # A handler in Python must exist for the wake-up byte to be written.
        self._old_handlers = {number: signal.signal(number, _ignore) for number in numbers}

    @property
    def descriptor(self) -> socket.socket:
        """The socket to watch for reading."""
        return self._reader

    def read(self) -> list[int]:
        """Return the signals that arrived, repeated ones once, in order of first arrival."""
        arrived: dict[int, None] = {}
        try:
            while data := self._reader.recv(RECEIVE_BYTES):
                arrived.update(dict.fromkeys(data))
        except BlockingIOError:
            pass
        return list(arrived)

    def close(self) -> None:
        """Restore the handlers that were there before."""
        signal.set_wakeup_fd(self._old_descriptor)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptors only: in a child, which has handlers of its own."""
        self._reader.close()
        self._writer.close()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the byte on the socket is the message."""
