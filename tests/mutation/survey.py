"""What mutmut says, as values: mutants with their outcome, their place in the source, sums."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

KILLED = {"killed", "timeout", "segfault"}
SURVIVED = {"survived", "no tests", "suspicious"}

RESULT = re.compile(r"\s*(?P<name>\S+): (?P<outcome>.+)")
NAME = re.compile(r"rafter_core\.(?P<module>\w+)\.x(?P<function>.+)__mutmut_\d+")
HUNK = re.compile(r"@@ -(?P<start>\d+)")


class Mutant(NamedTuple):
    """One changed function, as mutmut names it, and what the tests made of it."""

    name: str
    outcome: str

    @staticmethod
    def of_line(line: str) -> Mutant:
        """Read a line of `mutmut results`. Raises ValueError for what is no outcome."""
        match = RESULT.fullmatch(line)
        if match is None or match["outcome"] not in KILLED | SURVIVED:
            raise ValueError(f"not the outcome of a mutant: {line!r}")
        return Mutant(match["name"], match["outcome"])

    @property
    def is_killed(self) -> bool:
        return self.outcome in KILLED

    @property
    def module(self) -> str:
        """Return the module of rafter_core without its package."""
        return self._parts()["module"]

    @property
    def function(self) -> list[str]:
        """Return the name of the function, after that of its class if it has one."""
        # x_function, or xǁClassǁmethod.
        function = self._parts()["function"]
        return function[1:].split("ǁ") if function[0] == "ǁ" else [function[1:]]

    def _parts(self) -> re.Match[str]:
        match = NAME.fullmatch(self.name)
        if match is None:
            raise ValueError(f"not the name of a mutant: {self.name}")
        return match


def located(mutant: Mutant, diff: str, root: Path) -> list[str]:
    """Return `path:line: function`, then the changed lines of a diff that mutmut shows."""
    path = Path("rafter_core", f"{mutant.module}.py")
    source = (root / path).read_text("utf-8")
    function = _find(ast.parse(source), mutant.function)
    changed = []
    guess = number = 0
    text = ""
    for line in diff.splitlines():
        if hunk := HUNK.match(line):
            number = function.lineno + int(hunk["start"]) - 1
        elif number:
            if line.startswith(("-", "+")):
                changed.append(f"    {line}")
            if line.startswith("-") and not guess:
                guess, text = number, line[1:].strip()
            number += not line.startswith("+")
    where = f"{path}:{_nearest(source, text, guess)}: {'.'.join(mutant.function)}"
    return [f"{where} ({mutant.outcome}) {mutant.name}", *changed]


def _nearest(source: str, text: str, guess: int) -> int:
    """Return the line with this text that is next to `guess`: comments may shift a diff."""
    numbers = [n for n, line in enumerate(source.splitlines(), 1) if line.strip() == text]
    return min(numbers, key=lambda number: abs(number - guess), default=guess)


def _find(scope: ast.AST, names: Sequence[str]) -> ast.FunctionDef:
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == names[0]:
            if len(names) > 1:
                return _find(node, names[1:])
            assert isinstance(node, ast.FunctionDef)
            return node
    raise ValueError(f"there is no {names[0]}")


def spell_out_properties(source: str) -> str:
    """Replace `@property` by an assignment after the function. Lines keep their numbers."""
    lines = source.splitlines()
    for function in _properties(ast.parse(source)):
        decorator = function.decorator_list[0]
        assert function.end_lineno is not None
        text = f"{' ' * function.col_offset}{function.name} = property({function.name})"
        if function.end_lineno == len(lines):
            lines.append("")
        if lines[function.end_lineno]:
            raise ValueError(f"no empty line after {function.name}")
        lines[decorator.lineno - 1] = ""
        lines[function.end_lineno] = text
    return "\n".join(lines) + "\n"


def _properties(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if decorators == ["property"]:
                yield node


def tally(
    mutants: Sequence[Mutant], modules: Sequence[str], judged: Sequence[str]
) -> tuple[list[str], float]:
    """Return a table by module, and what percentage of the judged modules' mutants is killed."""
    rows = [_row("module", "mutants", "killed", "survived", "killed %")]
    counts: dict[str, tuple[int, int]] = {}
    for module in modules:
        killed = [mutant.is_killed for mutant in mutants if mutant.module == module]
        counts[module] = len(killed), sum(killed)
        name = module if module in judged else f"({module})"
        rows.append(_counted_row(name, *counts[module]))
    total, killed_total = (
        sum(counts[module][column] for module in modules if module in judged) for column in (0, 1)
    )
    rows.append(_counted_row("total", total, killed_total))
    return rows, _percent(total, killed_total)


def _counted_row(name: str, total: int, killed: int) -> str:
    percent = f"{_percent(total, killed):.1f}"
    return _row(name, str(total), str(killed), str(total - killed), percent)


def _percent(total: int, killed: int) -> float:
    return 100 * killed / total if total else 0.0


def _row(name: str, *cells: str) -> str:
    return f"{name:<14}" + "".join(f"{cell:>10}" for cell in cells)
