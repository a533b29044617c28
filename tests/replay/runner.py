"""Runs transcript files and says which directive printed what it should not."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.replay import commands, confchange_harness, quorum_harness
from tests.replay.datadriven import Directive, TranscriptError, parse
from tests.replay.environment import Environment

Harness = Callable[[Directive], str]

_LOG_LINE = re.compile(r"\s*(?:DEBUG|INFO|WARN|ERROR|FATAL) ")


@dataclass(frozen=True, slots=True)
class FileResult:
    """How a file ended: without a failure it passed."""

    path: Path
    directive_count: int
    failure: str | None

    @property
    def is_passed(self) -> bool:
        """Return whether everything printed what it should."""
        return self.failure is None


def transcripts(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files at the paths: a file as it is, of a folder every *.txt below it, sorted."""
    for path in paths:
        if path.is_dir():
            yield from sorted(found for found in path.rglob("*.txt") if found.is_file())
        else:
            yield path


def run_file(path: Path) -> FileResult:
    """Run one transcript, up to its first mismatch."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        return FileResult(path, 0, f"{path}: cannot be read: {error.strerror}\n")
    except UnicodeDecodeError as error:
        return FileResult(path, 0, f"{path}: is not UTF-8: {error.reason}\n")
    try:
        directives = parse(text)
        harness = _harness(directives)
    except TranscriptError as error:
        return FileResult(path, 0, f"{path}: {error}\n")
    for directive in directives:
        failure = _run_directive(harness, directive)
        if failure is not None:
            place = f"{path}:{directive.line}: {directive.text}\n"
            return FileResult(path, len(directives), place + failure)
    return FileResult(path, len(directives), None)


def _harness(directives: Sequence[Directive]) -> Harness:
    """Return a fresh harness of the kind that knows the commands, told by the first known one."""
    for directive in directives:
        if directive.command in quorum_harness.COMMANDS:
            return quorum_harness.run
        if directive.command in confchange_harness.COMMANDS:
            return confchange_harness.ConfChangeHarness().run
        if directive.command in commands.COMMANDS:
            environment = Environment()
            return lambda directive: commands.run(environment, directive)
    raise TranscriptError("there is no directive with a known command in it")


def _run_directive(harness: Harness, directive: Directive) -> str | None:
    """Run a directive. Return None if it printed what was expected, else what is wrong."""
    try:
        actual = harness(directive)
    except TranscriptError as error:
        return f"{error}\n"
    except Exception:  # noqa: BLE001  # whatever the core raises is the finding
        return traceback.format_exc()
    if directive.expected is None:
        return f"the file ends before the separator; the output is\n{normalised(actual)}"
    return difference(directive.expected, actual)


def normalised(output: str) -> str:
    """Return output without lines of the log, of which wording is free; `ok` if none is left."""
    lines = output.split("\n")
    if not lines[-1]:
        lines.pop()
    kept = [line for line in lines if not _LOG_LINE.match(line)]
    return "".join(f"{line}\n" for line in kept or ["ok"])


def difference(expected: str, actual: str) -> str | None:
    """Return a unified diff of two outputs, None if they mean the same."""
    expected, actual = normalised(expected), normalised(actual)
    if expected == actual:
        return None
    lines = difflib.unified_diff(
        expected.splitlines(keepends=True),
        actual.splitlines(keepends=True),
        fromfile="expected",
        tofile="actual",
        n=5,
    )
    return "".join(lines)
