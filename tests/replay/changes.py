"""Membership changes as transcripts spell them: operations like `v1 l2 r3`, one for each node."""

from __future__ import annotations

from rafter_core.conf_change import Change, ChangeKind

_KINDS = {
    "v": ChangeKind.ADD_VOTER,
    "l": ChangeKind.ADD_LEARNER,
    "r": ChangeKind.REMOVE_NODE,
    "u": ChangeKind.UPDATE_NODE,
    "w": ChangeKind.ADD_WITNESS,
}
NUMBER_BITS = 64


class CommandError(Exception):
    """A command failed the way a transcript may expect: the text is part of its output."""


def parse_changes(text: str) -> tuple[Change, ...]:
    """Return the operations in a directive's input. Raises CommandError."""
    text = text.strip()
    return tuple(_parse_change(token) for token in text.split(" ")) if text else ()


def _parse_change(token: str) -> Change:
    if len(token.encode()) < 2:
        raise CommandError(f"unknown token {token}")
    kind = _KINDS.get(token[0])
    if kind is None:
        raise CommandError(f"unknown input: {token}")
    return Change(kind, parse_number(token[1:]))


def parse_number(text: str) -> int:
    """Return an unsigned number. Raises CommandError with Go's text."""
    if not (text.isascii() and text.isdigit()):
        raise CommandError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    number = int(text)
    if number.bit_length() > NUMBER_BITS:
        raise CommandError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return number


def parse_truth(text: str) -> bool:
    """Return a truth value. Raises CommandError with Go's text."""
    if text in {"1", "t", "T", "TRUE", "true", "True"}:
        return True
    if text in {"0", "f", "F", "FALSE", "false", "False"}:
        return False
    raise CommandError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
