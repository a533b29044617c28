"""The configuration in words and as text: what a key allows, and the effective file in TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
from msgspec import inspect

from rafterd.config_schema import Config


def describe_type(expected: object) -> str:
    """Say what values a key allows, for an error message."""
    return _describe(inspect.type_info(expected))


def to_toml(config: Config, origins: Mapping[str, str]) -> str:
    """Return the whole configuration as TOML, with the origin of what is not a default.

    The text is a valid configuration file with the same meaning.
    """
    lines: list[str] = []
    for section in msgspec.structs.fields(Config):
        lines.append(f"[{section.name}]")
        content = getattr(config, section.name)
        for field in msgspec.structs.fields(section.type):
            key = f"{section.name}.{field.name}"
            line = f"{field.name} = {_toml_value(getattr(content, field.name))}"
            if key in origins:
                line += f"  # {origins[key]}"
            lines.append(line)
        lines.append("")
    return "\n".join(lines)


def _describe(info: inspect.Type) -> str:
    match info:
        case inspect.IntType(ge=low, le=high):
            return f"an integer from {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number from {low} to {high}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return " or ".join(_toml_value(value) for value in sorted(map(str, values)))
        case inspect.StrType(pattern=pattern) if pattern is not None:
            return f"a string of the form {pattern}"
        case inspect.StrType(min_length=low, max_length=high) if high is not None:
            return f"a string of {low or 0} to {high} characters"
        case inspect.StrType():
            return "a string"
        case inspect.ListType(item_type=item, max_length=high):
            return f"a list of at most {high} items, each {_describe(item)}"
        case _:
            raise AssertionError(f"a key of an undescribed type: {info!r}")


def _toml_value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # JSON escapes are TOML escapes, but for DEL, which JSON leaves alone.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return "[" + ", ".join(_toml_value(item) for item in value) + "]"
        case _:
            raise AssertionError(f"a value of an unexpected type: {value!r}")
