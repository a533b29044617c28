"""sd_notify: tell the service manager what this node is doing, in one datagram.

The protocol is a few lines of text to the socket named in $NOTIFY_SOCKET (see sd_notify(3));
without that variable everything here does nothing. Only the supervisor speaks it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class Notifier:
    """The way to the service manager, if there is one."""

    __slots__ = ("_address",)

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of an abstract socket; other families are not for us.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        if self._address and self._address[0] not in "\0/":
            logger.warning("NOTIFY_SOCKET names no Unix socket, ignored", extra={"value": path})
            self._address = ""

    @property
    def is_active(self) -> bool:
        """Whether anyone listens."""
        return bool(self._address)

    def send(self, *lines: str) -> bool:
        """Send assignments such as READY=1; whether they were sent. Never blocks, never raises."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
                channel.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logger.debug("cannot notify the service manager", extra={"error": error})
            return False
        return True

    def reloading(self) -> bool:
        """Announce a reload; READY=1 ends it. The time is what Type=notify-reload asks for."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """Return how often the service manager expects WATCHDOG=1 of this process, None if never."""
    text = environment.get("WATCHDOG_USEC", "")
    addressee = environment.get("WATCHDOG_PID", str(pid))
    if not (text.isascii() and text.isdigit() and int(text) > 0) or addressee != str(pid):
        return None
    return int(text) / 1e6
