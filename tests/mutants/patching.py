"""Changing the source of one function, for as long as a context lasts.

A function is compiled again from its own source with one text replaced, and given the new code. So
whoever holds the function, in a table or under another name, runs the changed one. Processes that
are forked meanwhile have the change too. What is written here is text of the product as it stands:
when that text is not there any more, the change is outdated, and says so.
"""

from __future__ import annotations

import contextlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType
from typing import NamedTuple


class Outdated(Exception):
    """The product is not what a change was written for."""


class Change(NamedTuple):
    """Replace `old`, which stands once in the source of `target`, by `new`.

    `target` is `package.module:function` or `package.module:Class.method`; of a property it is the
    getter.
    """

    target: str
    old: str
    new: str


def changed_code(change: Change) -> tuple[FunctionType, CodeType]:
    """Return the function that a change is of, and the code it is to have. Raises Outdated."""
    function = _find(change.target)
    source = textwrap.dedent(inspect.getsource(function))
    count = source.count(change.old)
    if count != 1:
        raise Outdated(f"{change.target} has {count} times, not once:\n{change.old}")
    if function.__code__.co_freevars:
        raise Outdated(f"{change.target} is a closure, and cannot be compiled by itself")
    # At its own place in its file, for tracebacks.
    lead = "\n" * (function.__code__.co_firstlineno - 1)
    flags = function.__code__.co_flags & annotations.compiler_flag
    module = compile(
        lead + source.replace(change.old, change.new),
        function.__code__.co_filename,
        "exec",
        flags=flags,
        dont_inherit=True,
    )
    return function, _code_of(module, function)


@contextlib.contextmanager
def changed(changes: Sequence[Change]) -> Iterator[None]:
    """Put changes in force, all or none, until the context ends. Raises Outdated."""
    codes = [changed_code(change) for change in changes]
    functions = [function for function, _ in codes]
    if len(set(functions)) != len(functions):
        raise Outdated("two changes of one function: make them one")
    kept = [function.__code__ for function in functions]
    for function, code in codes:
        function.__code__ = code
    try:
        yield
    finally:
        for function, code in zip(functions, kept, strict=True):
            function.__code__ = code


def _find(target: str) -> FunctionType:
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError) as error:
        raise Outdated(f"there is no {target}: {error}") from error
    if isinstance(found, property):
        found = found.fget
    if not isinstance(found, FunctionType):
        raise Outdated(f"{target} is no function of Python's")
    return found


def _code_of(module: CodeType, function: FunctionType) -> CodeType:
    """Return the code of the function that is all there is in a compiled module."""
    codes = [
        constant
        for constant in module.co_consts
        if isinstance(constant, CodeType) and constant.co_name == function.__name__
    ]
    (code,) = codes
    return code.replace(co_qualname=function.__code__.co_qualname)
