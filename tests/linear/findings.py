"""What the cheap checks report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that a correct store cannot have done."""

    check: str
    """The name of the check that found it."""
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"
