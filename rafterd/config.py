"""The configuration of a node: flag over environment over file over default.

`load_config` reads all sources, checks every key by itself (config_schema.py), then against the
others (config_check.py), and collects what is wrong: a user corrects a file once, not once per
error.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rafterd.config_check import Problem, check, listening_ports
from rafterd.config_describe import describe_type
from rafterd.config_schema import Config

__all__ = ["Config", "ConfigError", "LoadedConfig", "listening_ports", "load_config", "shard_count"]

ENVIRONMENT_PREFIX = "RAFTERD_"
FILE_BYTES_MAX = 1 << 20
REPLICATION_DEFAULT = 3


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds one complete sentence for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Setting(NamedTuple):
    """One raw value and where it was found, in the words of an error message."""

    value: object
    origin: str
    is_text: bool
    """Whether the value came as text (environment, flag), to be read as the key's type."""


class LoadedConfig(NamedTuple):
    """A checked configuration, and for each key that was set the place that set it."""

    config: Config
    origins: dict[str, str]


def load_config(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> LoadedConfig:
    """Read, merge and check the configuration. Raises ConfigError with everything that is wrong.

    `environment` is searched for RAFTERD_SECTION__KEY; `overrides` maps section.key to the text of
    a flag. Nothing is started or written.
    """
    problems: list[str] = []
    settings = _from_file(path, problems) if path else {}
    settings |= _from_environment(environment or {}, problems)
    for key, text in (overrides or {}).items():
        settings[key] = Setting(text, "command line", is_text=True)
    sections: dict[str, dict[str, object]] = {name: {} for name in _section_types()}
    for key, setting in settings.items():
        _convert(key, setting, sections, problems)
    if problems:
        raise ConfigError(problems)
    config = _build(sections)
    problems = [_describe_problem(problem, settings, path) for problem in check(config)]
    if problems:
        raise ConfigError(problems)
    return LoadedConfig(config, {key: setting.origin for key, setting in settings.items()})


def shard_count(configured: int) -> int:
    """Return the number of shards that `node.shards` stands for on this machine."""
    return configured or min(len(os.sched_getaffinity(0)), 64)


@functools.cache
def _key_types(section_type: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Return the type of each key of a section. To find them takes a good part of a millisecond."""
    return {field.name: field.type for field in msgspec.structs.fields(section_type)}


def _section_types() -> Mapping[str, type[msgspec.Struct]]:
    return _key_types(Config)


def _from_file(path: Path, problems: list[str]) -> dict[str, Setting]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return {}
    if len(data) > FILE_BYTES_MAX:
        problems.append(f"{path}: is larger than {FILE_BYTES_MAX} bytes, so not a configuration")
        return {}
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        problems.append(f"{path}: is not valid TOML: {error}")
        return {}
    lines = _key_lines(text)
    settings: dict[str, Setting] = {}
    for section, content in document.items():
        origin = _file_origin(path, lines, section)
        if not isinstance(content, dict):
            problems.append(f"{origin}: {section}: found {_show(content)}; allowed: a section")
            continue
        if section not in _section_types():
            problems.append(f"{origin}: [{section}]: unknown section{_near_section(section)}")
            continue
        for name, value in content.items():
            key = f"{section}.{name}"
            settings[key] = Setting(value, _file_origin(path, lines, key), is_text=False)
    return settings


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for variable, text in sorted(environment.items()):
        section, separator, name = variable.removeprefix(ENVIRONMENT_PREFIX).partition("__")
        if not (variable.startswith(ENVIRONMENT_PREFIX) and separator):
            continue
        section, name = section.lower(), name.lower()
        if section not in _section_types():
            problems.append(
                f"environment {variable}: unknown section {section!r}{_near_section(section)}"
            )
            continue
        settings[f"{section}.{name}"] = Setting(text, f"environment {variable}", is_text=True)
    return settings


def _convert(
    key: str,
    setting: Setting,
    sections: dict[str, dict[str, object]],
    problems: list[str],
) -> None:
    """Check one value against its key's type; the result goes to `sections`."""
    section, _, name = key.partition(".")
    section_type = _section_types().get(section)
    if section_type is None:
        problems.append(f"{setting.origin}: {key}: unknown section{_near_section(section)}")
        return
    types = _key_types(section_type)
    if name not in types:
        near = difflib.get_close_matches(name, types, 1)
        hint = f"did you mean {section}.{near[0]}?" if near else f"known: {', '.join(types)}"
        problems.append(f"{setting.origin}: {key}: unknown key; {hint}")
        return
    expected, value = types[name], setting.value
    if setting.is_text and isinstance(value, str) and expected_is_list(expected):
        value = [item.strip() for item in value.split(",") if item.strip()]
    try:
        sections[section][name] = msgspec.convert(value, expected, strict=not setting.is_text)
    except (msgspec.ValidationError, OverflowError):
        problems.append(
            f"{setting.origin}: {key}: found {_show(setting.value)}; "
            f"allowed: {describe_type(expected)}"
        )


def expected_is_list(expected: object) -> bool:
    """Whether a key's type is a list, given as comma-separated text outside the file."""
    return isinstance(msgspec.inspect.type_info(expected), msgspec.inspect.ListType)


def _build(sections: dict[str, dict[str, object]]) -> Config:
    initial = sections["cluster"].get("initial")
    if "replication" not in sections["cluster"] and isinstance(initial, list):
        ids = {item.partition("@")[0] for item in initial}
        sections["cluster"]["replication"] = max(1, min(REPLICATION_DEFAULT, len(ids)))
    config = msgspec.convert(sections, Config)
    node = msgspec.structs.replace(config.node, shards=shard_count(config.node.shards))
    return msgspec.structs.replace(config, node=node)


def _describe_problem(problem: Problem, settings: dict[str, Setting], path: Path | None) -> str:
    setting = settings.get(problem.key)
    origin = setting.origin if setting else f"{path} (default)" if path else "default"
    return f"{origin}: {problem.key}: found {_show(problem.found)}; allowed: {problem.allowed}"


def _near_section(name: str) -> str:
    near = difflib.get_close_matches(name, _section_types(), 1)
    if near:
        return f"; did you mean [{near[0]}]?"
    return f"; known: {', '.join(_section_types())}"


def _file_origin(path: Path, lines: dict[str, int], key: str) -> str:
    return f"{path}:{lines[key]}" if key in lines else str(path)


def _key_lines(text: str) -> dict[str, int]:
    """Find the line of each section and key, for messages; keys in unusual notation have none."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]", line):
            section = header[1]
            lines.setdefault(section, number)
        elif assignment := re.match(r"\s*([A-Za-z0-9_.-]+)\s*=", line):
            name = assignment[1]
            lines.setdefault(f"{section}.{name}" if section else name, number)
    return lines


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    return text if len(text) <= 120 else text[:117] + "…"
