"""Decimal numbers as INCRBYFLOAT adds them: 80-bit extended precision, in exact integers.

Redis computes with the C type ``long double``, which on x86-64 has 64 bits of significand, and
prints 17 digits after the point. Doing it in integers gives the same digits there, and gives
them on every other machine too: replicas of one group may not disagree about a sum.
"""

import re
from fractions import Fraction

_SIGNIFICAND_BITS = 64
_EXPONENT_MIN = -16445  # of the smallest subnormal number
_FINITE_END = 1 << 16384
_TEXT_BYTES_MAX = 5 * 1024 - 1
_DIGITS_AFTER_POINT = 17

# A larger exponent overflows, or vanishes, whatever the digits before it can make up for.
_EXPONENT_MAX = 40_000

_DECIMAL = re.compile(rb"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?")
_HEXADECIMAL = re.compile(rb"([+-]?)0[xX]([0-9a-fA-F]*)(?:\.([0-9a-fA-F]*))?(?:[pP]([+-]?\d+))?")
_INFINITE = re.compile(rb"[+-]?inf(inity)?", re.IGNORECASE)


class NotFiniteError(ArithmeticError):
    """The number or the sum is infinite."""


def parse(text: bytes) -> Fraction | None:
    """Return the number that strtold reads from all of ``text``; None if it is not one.

    Numbers that overflow or vanish are not accepted either. Raises NotFiniteError for infinities
    that are spelled out.
    """
    if len(text) > _TEXT_BYTES_MAX:
        return None
    if _INFINITE.fullmatch(text):
        raise NotFiniteError
    for pattern, base, exponent_base in ((_DECIMAL, 10, 10), (_HEXADECIMAL, 16, 2)):
        match = pattern.fullmatch(text)
        if match is not None and (match[2] or match[3]):
            return _value(match, base, exponent_base)
    return None


def add(augend: Fraction, addend: Fraction) -> Fraction:
    """Add as the processor does: the exact sum, rounded once. Raises NotFiniteError."""
    total = _round(augend + addend)
    if abs(total) >= _FINITE_END:
        raise NotFiniteError
    return total


def render(value: Fraction) -> bytes:
    """Print with at most 17 digits after the point and no trailing zeros."""
    scaled = round(abs(value) * 10**_DIGITS_AFTER_POINT)
    whole, fraction = divmod(scaled, 10**_DIGITS_AFTER_POINT)
    text = f"{_decimal(whole)}.{fraction:0{_DIGITS_AFTER_POINT}d}".rstrip("0").rstrip(".")
    return (b"-" if value < 0 and text != "0" else b"") + text.encode()


def _value(match: re.Match[bytes], base: int, exponent_base: int) -> Fraction | None:
    sign, whole, fraction, exponent = match[1], match[2], match[3] or b"", match[4] or b"0"
    digits = _integer(whole + fraction, base)
    if not digits:
        return Fraction(0)
    if len(exponent) > 8 or abs(int(exponent)) > _EXPONENT_MAX:
        return None
    value = Fraction(digits, base ** len(fraction)) * Fraction(exponent_base) ** int(exponent)
    value = _round(-value if sign == b"-" else value)
    return value if value and abs(value) < _FINITE_END else None


def _round(value: Fraction) -> Fraction:
    """Round to the nearest number with 64 bits of significand, ties to even."""
    if not value:
        return value
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - (_SIGNIFICAND_BITS - 1), _EXPONENT_MIN)
    return round(value / unit) * unit


# CPython refuses to convert more than 4300 digits at once, as a guard against quadratic time.
# Here both ends are bounded: a text to 5 KiB, a number to 2**16384 (4933 digits).
_CHUNK_DIGITS = 4000


def _integer(digits: bytes, base: int) -> int:
    value = 0
    for start in range(0, len(digits), _CHUNK_DIGITS):
        chunk = digits[start : start + _CHUNK_DIGITS]
        value = value * base ** len(chunk) + int(chunk, base)
    return value


def _decimal(whole: int) -> str:
    head, tail = divmod(whole, 10**_CHUNK_DIGITS)
    return f"{head}{tail:0{_CHUNK_DIGITS}d}" if head else str(tail)
