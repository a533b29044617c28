r"""Glob patterns of KEYS and SCAN MATCH, exactly as Redis matches them (util.c, stringmatchlen).

``*`` any bytes, ``?`` one byte, ``[abc]`` ``[^abc]`` ``[a-z]`` one byte of a set, ``\x`` that
byte itself. Redis's corner cases are kept: an unclosed set ends with the pattern, the borders of
a range are signed and may stand in either order, an empty set matches nothing.

A pattern is compiled once per command. Matching uses no recursion: on a mismatch only the last
``*`` gives way, which is what Redis's ``skipLongerMatches`` achieves, so the time is bounded by
the length of the pattern times the length of the key.
"""

from collections.abc import Callable
from typing import TypeAlias

Matcher: TypeAlias = Callable[[bytes], bool]

_STAR: frozenset[int] = frozenset()
_ANY = frozenset(range(256))
_NOTHING = frozenset({-1})
_LITERALS = tuple(frozenset({byte}) for byte in range(256))


def compile_pattern(pattern: bytes) -> Matcher:
    """Return the function that tells whether a whole key matches ``pattern``. Never fails."""
    tokens = _tokens(pattern)
    stars = tokens.count(_STAR)
    if pattern == b"*":
        return lambda _: True
    if all(len(token) == 1 and token is not _NOTHING for token in tokens if token):
        literal = bytes(next(iter(token)) for token in tokens if token)
        if not stars:
            return literal.__eq__
        if stars == 1 and literal and tokens[-1] is _STAR:
            return lambda key: key.startswith(literal)
    return lambda key: _matches(tokens, key)


def _matches(tokens: list[frozenset[int]], key: bytes) -> bool:
    """Match by the last star: each earlier one keeps the first place that worked."""
    at, position, star, retry = 0, 0, -1, 0
    while position < len(key):
        if at < len(tokens) and tokens[at] is _STAR:
            if at == len(tokens) - 1:
                return True
            star, retry = at, position
            at += 1
        elif at < len(tokens) and key[position] in tokens[at]:
            at += 1
            position += 1
        elif star >= 0:
            retry += 1
            at, position = star + 1, retry
        else:
            return False
    # Redis never enters its loop for an empty key, so there a star does not match nothing.
    while key and at < len(tokens) and tokens[at] is _STAR:
        at += 1
    return at == len(tokens)


def _tokens(pattern: bytes) -> list[frozenset[int]]:
    """Split into one set of bytes per byte of the key; the empty set stands for a star."""
    tokens: list[frozenset[int]] = []
    at = 0
    while at < len(pattern):
        byte = pattern[at]
        if byte == ord("*"):
            if not tokens or tokens[-1] is not _STAR:
                tokens.append(_STAR)
        elif byte == ord("?"):
            tokens.append(_ANY)
        elif byte == ord("["):
            members, at = _class(pattern, at + 1)
            tokens.append(members)
            continue
        else:
            if byte == ord("\\") and at + 1 < len(pattern):
                at += 1
            tokens.append(_LITERALS[pattern[at]])
        at += 1
    return tokens


def _class(pattern: bytes, at: int) -> tuple[frozenset[int], int]:
    """Read a set from behind its ``[``; return its members and where the pattern goes on."""
    negated = pattern[at : at + 1] == b"^"
    if negated:
        at += 1
    members: set[int] = set()
    while at < len(pattern):
        byte = pattern[at]
        if byte == ord("\\") and at + 1 < len(pattern):
            members.add(pattern[at + 1])
            at += 2
        elif byte == ord("]"):
            at += 1
            break
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            first, last = sorted((_signed(byte), _signed(pattern[at + 2])))
            members.update(value & 0xFF for value in range(first, last + 1))
            at += 3
        else:
            members.add(byte)
            at += 1
    matched = _ANY - members if negated else frozenset(members)
    return matched or _NOTHING, at


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte
