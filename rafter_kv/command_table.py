"""All commands in one table, and the form of it that a connection looks commands up in."""

from __future__ import annotations

import sys
from typing import Final, TypeAlias

from rafter_kv.command_spec import CommandSpec, Routing
from rafter_kv.data_commands import DATA_COMMANDS
from rafter_kv.local_command import unknown_command
from rafter_kv.server_commands import SERVER_COMMANDS

__all__ = ["COMMANDS", "ROUTES", "Route", "find_route", "lookup", "unknown_command"]

COMMANDS: Final[dict[bytes, CommandSpec]] = {**DATA_COMMANDS, **SERVER_COMMANDS}

Route: TypeAlias = tuple[bytes, int, int, int, bool, CommandSpec]
"""(name, least and most arguments with the name, position of the one key or 0, is_write, spec)."""


def lookup(name: bytes) -> CommandSpec | None:
    """Return the command of a name in any case."""
    return COMMANDS.get(name.upper())


def find_route(name: bytes) -> Route | None:
    """Return the route of a name in any case; `ROUTES` holds the usual ones."""
    return ROUTES.get(name.upper())


def _route(spec: CommandSpec) -> Route:
    least = abs(spec.arity)
    most = least if spec.arity > 0 else sys.maxsize
    key_position = spec.first_key if spec.routing is Routing.KEY else 0
    return spec.name, least, most, key_position, spec.is_write, spec


ROUTES: Final[dict[bytes, Route]] = {
    name: _route(spec)
    for spec in COMMANDS.values()
    for name in (spec.name, spec.name.lower(), spec.name.capitalize())
}
