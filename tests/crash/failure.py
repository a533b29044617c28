"""What a crash showed to be wrong."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Failure"]


class Failure(NamedTuple):
    """A violation in one crash state, and how to see it again: ``program`` is a module here."""

    program: str
    kind: str
    seed: int
    operation: int
    mode: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.kind}: seed {self.seed}, operation {self.operation}, mode {self.mode}: "
            f"{self.reason}\n  python -m tests.crash.{self.program} --seed {self.seed} "
            f"--operation {self.operation} --mode {self.mode}"
        )
