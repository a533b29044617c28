"""Rules of the house that no other tool checks, each as a function from source text to complaints.

The rules are tested on text that breaks them (second half), so that none can pass by accident.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "rafter_core": "core",
    "rafter_storage": "storage",
    "rafter_transport": "transport",
    "rafter_kv": "kv",
    "rafterd": "daemon",
}
MODULE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 100

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__"}

CORE_THIRD_PARTY = {"msgpack", "xxhash"}
CORE_FORBIDDEN = {
    "asyncio", "logging", "multiprocessing", "os", "pathlib", "select", "selectors", "signal",
    "socket", "ssl", "subprocess", "threading", "time",
}  # fmt: skip

HOME_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root)/\w")
NAMED_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".service", ".yml", ".sh", ".cfg", ".txt", ""}
IGNORED_DIRECTORIES = {"build", "data", "dist", "results", "__pycache__"}

WITHOUT_TWIN: dict[str, str] = {
    "rafterd/boot.py": "a record without behaviour; test_shard_process.py makes and uses it",
}
"""Modules without a twin in tests/, each with the reason why."""


def modules() -> list[Path]:
    """Return the modules of the five packages, relative to the root."""
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert found, "the packages are not where this test looks for them"
    return sorted(path.relative_to(ROOT) for path in found)


def text_files() -> Iterator[Path]:
    """Yield every text file of the repository: hidden and generated directories are left out."""
    pending = [ROOT]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            if path.is_dir():
                if not path.name.startswith(".") and path.name not in IGNORED_DIRECTORIES:
                    pending.append(path)
            elif path.suffix in TEXT_SUFFIXES and not path.name.startswith("."):
                yield path


@functools.lru_cache(maxsize=1)
def parsed(source: str) -> ast.Module:
    """Parse a module once for all rules, none of which changes the tree."""
    return ast.parse(source)


# ---- the rules -------------------------------------------------------------------------------


def long_parts(source: str) -> list[str]:
    """Complain of a module, a function or a line that is too long."""
    lines = source.splitlines()
    complaints = [
        f"line {number}: {len(line)} columns"
        for number, line in enumerate(lines, 1)
        if len(line) > LINE_COLUMNS_MAX
    ]
    if len(lines) > MODULE_LINES_MAX:
        complaints.append(f"{len(lines)} lines")
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                complaints.append(f"line {node.lineno}: {node.name} has {length} lines")
    return complaints


def missing_docstrings(source: str) -> list[str]:
    """Complain of a module, public class or public function that does not say what it is."""
    tree = parsed(source)
    complaints = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    return complaints + [
        f"line {node.lineno}: {node.name}"
        for node in _public_definitions(tree)
        if not ast.get_docstring(node)
    ]


def _public_definitions(
    scope: ast.Module | ast.ClassDef,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in scope.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_") or _is_variant(node):
                continue
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public_definitions(node)


def _is_variant(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Tell whether the text is elsewhere: at the getter, the implementation, the base class."""
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(names & {"setter", "overload", "override"})


def forbidden_words(source: str) -> list[str]:
    """Complain of whatever runs text as code, or builds objects from bytes without a schema."""
    complaints = [
        f"line {line}: import of {name}"
        for line, name in _imports(source)
        if name.partition(".")[0] in FORBIDDEN_MODULES
    ]
    calls = (node for node in ast.walk(parsed(source)) if isinstance(node, ast.Call))
    return complaints + [
        f"line {call.lineno}: {call.func.id}()"
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in FORBIDDEN_CALLS
    ]


def _imports(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays within its package.
            yield node.lineno, node.module if node.module and not node.level else "."


def impure_core(source: str) -> list[str]:
    """Complain of what would let the core see a clock, a disk, a network or chance."""
    complaints = []
    for line, name in _imports(source):
        top = name.partition(".")[0]
        is_allowed = top in sys.stdlib_module_names or top in CORE_THIRD_PARTY | {"rafter_core", ""}
        if top in CORE_FORBIDDEN or not is_allowed:
            complaints.append(f"line {line}: import of {name}")
    for node in ast.walk(parsed(source)):
        # The generator is handed in; the module's own functions share one that is seeded by chance.
        is_chance = (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "random"
            and node.attr != "Random"
        ) or (
            isinstance(node, ast.ImportFrom)
            and node.module == "random"
            and [alias.name for alias in node.names] != ["Random"]
        )
        if is_chance:
            assert isinstance(node, ast.Attribute | ast.ImportFrom)
            complaints.append(f"line {node.lineno}: {ast.unparse(node)}")
    return complaints


def home_paths(text: str) -> list[str]:
    """Complain of a path that exists on one person's machine alone."""
    return [match.group() for match in HOME_PATH.finditer(text)]


def broken_links(text: str, directory: Path) -> list[str]:
    """Complain of a link in Markdown to a file that does not exist."""
    targets = [match[1].partition("#")[0] for match in MARKDOWN_LINK.finditer(text)]
    return [
        target
        for target in targets
        if target and "://" not in target and not (directory / target).exists()
    ]


def missing_tests(text: str, root: Path) -> list[str]:
    """Complain of a test that a document names and that does not exist."""
    missing = []
    for match in NAMED_TEST.finditer(text):
        path = root / match[1]
        if not path.is_file() or f"def {match[2]}(" not in path.read_text(encoding="utf-8"):
            missing.append(match[0])
    return missing


def twin(module: Path) -> Path:
    """Return where the tests of `module` are: those of rafter_kv/slots.py in kv/test_slots.py."""
    return Path(
        "tests", ROOMS[module.parts[0]], f"test_{'_'.join(module.with_suffix('').parts[1:])}.py"
    )


def twin_complaints(
    present: list[Path], exists: Callable[[Path], bool], excepted: dict[str, str]
) -> list[str]:
    """Complain of a module without tests, and of an exception that is no longer one."""
    names = {
        path.as_posix(): twin(path)
        for path in present
        if path.name not in {"__init__.py", "__main__.py"}
    }
    complaints = [
        f"{name}: there is no {tests}"
        for name, tests in names.items()
        if name not in excepted and not exists(tests)
    ]
    for name, reason in excepted.items():
        if name not in names:
            complaints.append(f"{name} is excepted and does not exist")
        elif exists(names[name]):
            complaints.append(f"{name} is excepted and has {names[name]}")
        elif not reason:
            complaints.append(f"{name} is excepted without a reason")
    return complaints


# ---- applied to the repository ---------------------------------------------------------------


@pytest.mark.parametrize("module", modules(), ids=str)
def test_modules_keep_the_rules(module: Path) -> None:
    source = (ROOT / module).read_text(encoding="utf-8")
    assert long_parts(source) == []
    assert missing_docstrings(source) == []
    assert forbidden_words(source) == []


@pytest.mark.parametrize(
    "module", [path for path in modules() if path.parts[0] == "rafter_core"], ids=str
)
def test_the_core_stays_pure(module: Path) -> None:
    assert impure_core((ROOT / module).read_text(encoding="utf-8")) == []


def test_each_module_has_its_twin() -> None:
    complaints = twin_complaints(modules(), lambda path: (ROOT / path).is_file(), WITHOUT_TWIN)
    assert complaints == []


def test_no_file_names_somebodys_home() -> None:
    found = {}
    for path in text_files():
        if complaints := home_paths(path.read_text(encoding="utf-8")):
            found[str(path.relative_to(ROOT))] = complaints
    assert found == {}


def test_links_between_documents_lead_somewhere() -> None:
    broken = {}
    for path in text_files():
        if path.suffix == ".md":
            missing = broken_links(path.read_text(encoding="utf-8"), path.parent)
            if missing:
                broken[str(path.relative_to(ROOT))] = missing
    assert broken == {}


def test_tests_that_documents_name_are_there() -> None:
    missing = {}
    for path in text_files():
        if path.suffix == ".md":
            complaints = missing_tests(path.read_text(encoding="utf-8"), ROOT)
            if complaints:
                missing[str(path.relative_to(ROOT))] = complaints
    assert missing == {}


def test_every_room_is_typed() -> None:
    assert [room for room in ROOMS if not (ROOT / room / "py.typed").is_file()] == []


# ---- the rules find what breaks them ---------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_parts, "# " + "x" * 99),
        (long_parts, "\n" * 801),
        (long_parts, "async def f():\n" + "    pass\n" * 70),
        (missing_docstrings, "x = 1"),
        (missing_docstrings, '"""M."""\ndef f(): ...'),
        (missing_docstrings, '"""M."""\nclass C:\n    """C."""\n    async def f(self): ...'),
        (forbidden_words, "import pickle"),
        (forbidden_words, "from yaml import load"),
        (forbidden_words, "def f():\n    import marshal as m"),
        (forbidden_words, "print(eval(x))"),
        (impure_core, "import time"),
        (impure_core, "from os import path"),
        (impure_core, "import asyncio.streams"),
        (impure_core, "from rafter_storage.index import x"),
        (impure_core, "import uvloop"),
        (impure_core, "import random\nrandom.random()"),
        (impure_core, "from random import choice"),
        (home_paths, "see /" + "home/somebody/x"),
        (home_paths, "'/" + "root/x'"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule: Callable[[str], list[str]], source: str) -> None:
    assert len(rule(source)) == 1


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_parts, "# " + "x" * 98 + "\n" * 799),
        (long_parts, "def f():\n" + "    pass\n" * 69),
        (missing_docstrings, ""),
        (missing_docstrings, '"""M."""\ndef _f(): ...\nclass _C:\n    def f(self): ...'),
        (forbidden_words, "os.execv(a, b); literal_eval(c); text = 'pickle'"),
        (impure_core, "import random\ndef f(g: random.Random): ...\nfrom . import log"),
        (impure_core, "import msgpack, xxhash, enum\nfrom rafter_core.log import Log"),
        (home_paths, "https://example.org/home/page ./home/x /homes/x"),
    ],
)
def test_a_rule_lets_pass_what_keeps_it(rule: Callable[[str], list[str]], source: str) -> None:
    assert rule(source) == []


def test_a_broken_link_is_found() -> None:
    text = "[a](gone.md) [b](README.md#part) [c](https://example.org/x.md) [d](#here)"
    assert broken_links(text, ROOT) == ["gone.md"]


def test_a_named_test_that_is_missing_is_found() -> None:
    this = "tests/test_tidy.py::test_a_named_test_that_is_missing_is_found"
    gone = ["tests/test_tidy.py::test_a_named_test", "tests/test_gone.py::test_a"]
    assert missing_tests(f"| `{this}` | {' '.join(gone)} tests/test_tidy.py", ROOT) == gone


def test_twins_and_exceptions_are_both_checked() -> None:
    present = [Path("rafter_kv/a.py"), Path("rafterd/b.py"), Path("rafterd/__init__.py")]
    tests = {Path("tests/kv/test_a.py")}
    assert twin_complaints(present, tests.__contains__, {"rafterd/b.py": "a reason"}) == []
    for excepted in ({}, {"rafterd/b.py": ""}):
        assert len(twin_complaints(present, tests.__contains__, excepted)) == 1
    stale = {"rafterd/b.py": "a reason", "rafterd/gone.py": "x", "rafter_kv/a.py": "x"}
    assert len(twin_complaints(present, tests.__contains__, stale)) == 2
