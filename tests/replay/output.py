"""What a directive prints, at the level of detail that a transcript asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.replay.changes import CommandError

LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")


class Output:
    """A buffer that can be muted and indented.

    The levels below NONE choose among lines of the log, which the core does not write: here they
    are all the same. NONE mutes everything but errors, so that a long preparation prints nothing.
    """

    def __init__(self) -> None:
        self.level = LEVELS[0]
        self._parts: list[str] = []

    @property
    def is_muted(self) -> bool:
        """Return whether only errors show."""
        return self.level == LEVELS[-1]

    def set_level(self, name: str) -> None:
        """Change the level. Raises CommandError for a name that is none."""
        level = name.upper()
        if level not in LEVELS:
            raise CommandError(f"log levels must be either of [{' '.join(LEVELS)}]")
        self.level = level

    def write(self, text: str) -> None:
        """Print text, unless muted."""
        if not self.is_muted:
            self._parts.append(text)

    def take(self) -> str:
        """Return what was printed, and begin anew."""
        text = "".join(self._parts)
        self._parts = []
        return text

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Print what is printed inside two columns further right, line by line."""
        outer = self._parts
        self._parts = []
        try:
            yield
        finally:
            lines = "".join(self._parts).split("\n")
            if not lines[-1]:
                lines.pop()
            outer.extend(f"  {line}\n" for line in lines)
            self._parts = outer
