from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutation.__main__ import BESIDES, JUDGED, LEFT_OUT, ROOT
from tests.mutation.survey import Mutant, located, spell_out_properties, tally

SOURCE = '''"""M."""


class C:
    @property
    def size(self) -> int:
        return 1

    def add(self, a: int) -> int:
        """Add."""
        return a + 1


def f() -> int:
    return 2
'''

DIFF = '''# rafter_core.m.xǁCǁadd__mutmut_1: survived
--- rafter_core/m.py
+++ rafter_core/m.py
@@ -1,3 +1,3 @@
 def add(self, a: int) -> int:
     """Add."""
-    return a + 1
+    return a - 1
'''


def test_outcomes_of_mutmut_are_read() -> None:
    killed = Mutant.of_line("    rafter_core.log.x_f__mutmut_12: killed")
    assert (killed.module, killed.function, killed.is_killed) == ("log", ["f"], True)
    unreached = Mutant.of_line("    rafter_core.log.xǁCǁ_f__mutmut_1: no tests")
    assert (unreached.function, unreached.is_killed) == (["C", "_f"], False)


@pytest.mark.parametrize("line", ["", "x", "rafter_core.log.x_f__mutmut_1: not checked"])
def test_whatever_is_no_outcome_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not the outcome"):
        Mutant.of_line(line)


def test_a_name_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="not the name"):
        _ = Mutant("elsewhere.x_f__mutmut_1", "killed").module


@pytest.mark.parametrize("start", [1, 3])
def test_a_change_is_located_in_the_source(tmp_path: Path, start: int) -> None:
    """The lines of a diff count from a comment before the function, if there is one."""
    (tmp_path / "rafter_core").mkdir()
    (tmp_path / "rafter_core" / "m.py").write_text(SOURCE, "utf-8")
    mutant = Mutant("rafter_core.m.xǁCǁadd__mutmut_1", "survived")
    where, *changed = located(mutant, DIFF.replace("-1,3", f"-{start},3"), tmp_path)
    assert where.startswith("rafter_core/m.py:11: C.add (survived)")
    assert SOURCE.splitlines()[10] == "        return a + 1"
    assert changed == ["    -    return a + 1", "    +    return a - 1"]


def test_properties_are_spelled_out_on_the_same_lines() -> None:
    spelled = spell_out_properties(SOURCE)
    assert "@property" not in spelled
    before, after = SOURCE.splitlines(), spelled.splitlines()
    different = [n for n, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b]
    assert different == [5, 8]
    assert after[7] == "    size = property(size)"


@pytest.mark.parametrize("module", JUDGED + BESIDES)
def test_the_mutated_modules_have_no_other_decorators(module: str) -> None:
    """Since mutmut passes over decorated functions, a decorator would hide one."""
    source = (ROOT / "rafter_core" / f"{module}.py").read_text("utf-8")
    functions = [
        node
        for node in ast.walk(ast.parse(spell_out_properties(source)))
        if isinstance(node, ast.FunctionDef)
    ]
    assert functions
    assert [node.name for node in functions if node.decorator_list] == []


def test_the_tests_that_are_left_out_exist() -> None:
    assert [name for name in LEFT_OUT if not (ROOT / name).is_file()] == []


def test_the_sum_counts_the_judged_modules_alone() -> None:
    mutants = [
        Mutant("rafter_core.a.x_f__mutmut_1", "killed"),
        Mutant("rafter_core.a.x_f__mutmut_2", "timeout"),
        Mutant("rafter_core.a.x_f__mutmut_3", "survived"),
        Mutant("rafter_core.b.x_f__mutmut_1", "survived"),
    ]
    rows, percent = tally(mutants, ["a", "b"], ["a"])
    assert percent == pytest.approx(200 / 3)
    assert [row.split() for row in rows[1:]] == [
        ["a", "3", "2", "1", "66.7"],
        ["(b)", "1", "0", "1", "0.0"],
        ["total", "3", "2", "1", "66.7"],
    ]
