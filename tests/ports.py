"""Free ports on loopback, for servers whose ports must be known before they start.

Between the search and the start of the server somebody else could take a port. So each process of
tests has a range of ports that no other one uses, reserved until it ends; and in its range a port
comes up again only after all others.
"""

import functools
import socket

HOST = "127.0.0.1"
# Below the kernel's range for outgoing connections, each of which takes some port.
FIRST = 10_000
COUNT = 1_000
RANGES = 22


def free_ports(count: int = 1) -> int:
    """Return the first of `count` neighbouring ports on which nobody listens."""
    return _own_range().next(count)


class PortRange:
    """Ports of which nobody else takes any."""

    def __init__(self, first: int, count: int) -> None:
        self._first = first
        self._count = count
        self._used = 0

    def next(self, count: int) -> int:
        """Return the first of `count` neighbouring ports on which nobody listens."""
        assert count <= self._count
        for _ in range(2 * self._count):
            if self._used + count > self._count:
                self._used = 0
            port = self._first + self._used
            if all(_is_free(port + place) for place in range(count)):
                self._used += count
                return port
            self._used += 1
        raise AssertionError(f"no {count} ports of {self._count} from {self._first} on are free")


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


@functools.cache
def _own_range() -> PortRange:
    """Reserve a range: by a name of a socket, which the kernel frees when this process ends."""
    for number in range(RANGES):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0rafter tests: ports {number}")
        except OSError:
            name.close()
        else:
            name.detach()  # stays open to the end
            return PortRange(FIRST + number * COUNT, COUNT)
    raise AssertionError(f"{RANGES} processes of tests run at the same time")
