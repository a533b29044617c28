"""What clients sent and what was acknowledged, and whether that fits what is read afterwards."""

from __future__ import annotations

from typing import NamedTuple


class Loss(NamedTuple):
    """One key that does not read as it must."""

    key: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.key}: found {self.found}, allowed {self.allowed}"


class KeyHistory:
    """SETs of one key in the order in which one connection sent them.

    Until the first write the key may be absent, or be what was last read back.
    """

    def __init__(self) -> None:
        # The newest acknowledged value, then those sent after it whose outcome is not known.
        self._allowed: list[bytes | None] = [None]

    def send(self, value: bytes) -> None:
        """Take note of a write on its way; values must differ."""
        self._allowed.append(value)

    def acknowledge(self, value: bytes) -> None:
        """Take note of an answer OK: nothing older than `value` may be read from now on."""
        del self._allowed[: self._allowed.index(value)]

    def allows(self, found: bytes | None) -> bool:
        """Whether a node that lost nothing may answer this."""
        return found in self._allowed

    def settle(self, found: bytes | None) -> None:
        """Take note of what was read when no write was on its way: only that may be read again."""
        self._allowed = [found]

    def describe(self) -> str:
        """Say which values are allowed."""
        shown = [_short(value) for value in self._allowed[:3]]
        return " or ".join(shown) + (" or later" if len(self._allowed) > 3 else "")


class CounterHistory:
    """INCRs of one counter by any number of connections."""

    def __init__(self) -> None:
        self.base = 0
        self.sent = 0
        self.acknowledged = 0
        self.highest_answer = 0

    def acknowledge(self, answer: int) -> None:
        """Take note of an answered INCR."""
        self.acknowledged += 1
        self.highest_answer = max(self.highest_answer, answer)

    @property
    def lowest(self) -> int:
        """The least that may be read: all that was acknowledged."""
        return max(self.base + self.acknowledged, self.highest_answer)

    @property
    def highest(self) -> int:
        """The most that may be read: all that was sent, each once."""
        return self.base + self.sent

    def allows(self, found: bytes | None) -> bool:
        """Whether a node that lost nothing, and repeated nothing, may answer this."""
        return self.lowest <= int(found or b"0") <= self.highest

    def settle(self, found: bytes | None) -> None:
        """Take note of what was read when no INCR was on its way."""
        self.base = int(found or b"0")
        self.sent = self.acknowledged = self.highest_answer = 0

    def describe(self) -> str:
        """Say which values are allowed."""
        return f"{self.lowest} to {self.highest}"


class History:
    """All keys and counters of one data directory over all its lives.

    Each `KeyHistory` and `CounterHistory` belongs to one client while clients run.
    """

    def __init__(self) -> None:
        self.of_key: dict[str, KeyHistory | CounterHistory] = {}

    def key(self, name: str) -> KeyHistory:
        """Return the history of a key that is SET, made on first use."""
        found = self.of_key.setdefault(name, KeyHistory())
        assert isinstance(found, KeyHistory)
        return found

    def counter(self, name: str) -> CounterHistory:
        """Return the history of a counter, made on first use."""
        found = self.of_key.setdefault(name, CounterHistory())
        assert isinstance(found, CounterHistory)
        return found

    def losses(self, found: dict[str, bytes | None]) -> list[Loss]:
        """Compare with what was read of every key; what is missing in `found` counts as absent."""
        return [
            Loss(name, _short(found.get(name)), history.describe())
            for name, history in self.of_key.items()
            if not history.allows(found.get(name))
        ]

    def settle(self, found: dict[str, bytes | None]) -> None:
        """Make what was read the truth that later reads are compared with."""
        for name, history in self.of_key.items():
            history.settle(found.get(name))


def _short(value: bytes | None) -> str:
    if value is None:
        return "nothing"
    return repr(value[:24])[1:] + (f" ({len(value)} bytes)" if len(value) > 24 else "")
