"""COMMAND: the command table described by itself, in the form that clients learn it from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rafter_kv.command_spec import CommandSpec, Routing
from rafter_kv.local_command import container, local
from rafter_kv.patterns import compile_pattern
from rafter_kv.reply_encoding import SetReply
from rafter_kv.results import SYNTAX_ERROR

if TYPE_CHECKING:
    from rafter_kv.connection import RespConnection
    from rafter_kv.results import Result

_TIPS: Final[dict[Routing, tuple[str, ...]]] = {
    Routing.SPLIT_SUM: ("request_policy:multi_shard", "response_policy:agg_sum"),
    Routing.SPLIT_ARRAY: ("request_policy:multi_shard",),
    Routing.SAME_GROUP: ("request_policy:multi_shard", "response_policy:all_succeeded"),
    # Any shard answers for all groups, so these are to be sent to one of them, and so are those
    # that Redis marks for every shard.
    Routing.CURSOR: ("nondeterministic_output", "request_policy:special"),
    Routing.ALL_CONCAT: ("nondeterministic_output_order",),
}


def _table() -> dict[bytes, CommandSpec]:
    # The table holds this module's own commands, so it cannot be there when this one is loaded.
    from rafter_kv.command_table import COMMANDS

    return COMMANDS


def find(name: bytes) -> CommandSpec | None:
    """Return a command by its name in any case, or a subcommand by "container|name"."""
    head, _, rest = name.upper().partition(b"|")
    spec = _table().get(head)
    if spec is None or not rest:
        return spec
    full = head + b"|" + rest
    return next((part for part in spec.subcommands if part.name == full), None)


def describe(spec: CommandSpec) -> Result:
    """Return a command's entry in the reply to COMMAND."""
    return [
        _name(spec),
        spec.arity,
        SetReply(f"+{flag}" for flag in spec.flags),
        spec.first_key,
        spec.last_key,
        spec.key_step,
        SetReply(f"+@{category}" for category in _categories(spec)),
        [tip.encode() for tip in _TIPS.get(spec.routing, ())],
        _key_specifications(spec),
        [describe(part) for part in spec.subcommands],
    ]


def document(spec: CommandSpec) -> Result:
    """Return a command's entry in the reply to COMMAND DOCS."""
    entry: dict[Result, Result] = {
        b"summary": spec.summary.encode(),
        b"since": spec.since.encode(),
        b"group": spec.group.encode(),
        b"complexity": spec.complexity.encode(),
    }
    if spec.subcommands:
        entry[b"subcommands"] = {_name(part): document(part) for part in spec.subcommands}
    return entry


def _name(spec: CommandSpec) -> bytes:
    return spec.name.lower()


def _categories(spec: CommandSpec) -> list[str]:
    flags = spec.flags
    categories = []
    if "readonly" in flags:
        categories.append("read")
    if "write" in flags:
        categories.append("write")
    if spec.group in ("string", "connection", "scripting"):
        categories.append(spec.group)
    elif spec.group == "generic":
        categories.append("keyspace")
    if "admin" in flags:
        categories += ["admin", "dangerous"]
    categories.append("fast" if "fast" in flags else "slow")
    return categories


def _key_specifications(spec: CommandSpec) -> Result:
    if not spec.first_key:
        return []
    # Redis counts the last key from the first, unless it counts from the end.
    last = spec.last_key - spec.first_key if spec.last_key > 0 else spec.last_key
    access = "+RW" if spec.is_write else "+RO"
    begin: dict[Result, Result] = {b"type": b"index", b"spec": {b"index": spec.first_key}}
    find_keys: dict[Result, Result] = {
        b"type": b"range",
        b"spec": {b"lastkey": last, b"keystep": spec.key_step, b"limit": 0},
    }
    flags = SetReply((access, "+update" if spec.is_write else "+access"))
    return [{b"flags": flags, b"begin_search": begin, b"find_keys": find_keys}]


def _all(_connection: RespConnection, _command: list[bytes]) -> Result:
    return [describe(spec) for spec in _table().values()]


def _count(_connection: RespConnection, _command: list[bytes]) -> Result:
    return len(_table())


def _info(connection: RespConnection, command: list[bytes]) -> Result:
    if len(command) == 2:
        return _all(connection, command)
    found = map(find, command[2:])
    return [describe(spec) if spec is not None else None for spec in found]


def _docs(_connection: RespConnection, command: list[bytes]) -> Result:
    if len(command) == 2:
        return {_name(spec): document(spec) for spec in _table().values()}
    found = map(find, command[2:])
    return {_name(spec): document(spec) for spec in found if spec is not None}


def _list(_connection: RespConnection, command: list[bytes]) -> Result:
    specs = [*_table().values()]
    if len(command) == 2:
        return [_name(spec) for spec in specs]
    if len(command) != 5 or command[2].upper() != b"FILTERBY":
        return SYNTAX_ERROR
    specs += [part for spec in specs for part in spec.subcommands]
    kind, value = command[3].upper(), command[4]
    if kind == b"MODULE":
        return []
    if kind == b"ACLCAT":
        category = value.lower().decode("utf-8", "replace")
        return [_name(spec) for spec in specs if category in _categories(spec)]
    if kind == b"PATTERN":
        matches = compile_pattern(value.lower())
        return [_name(spec) for spec in specs if matches(_name(spec))]
    return SYNTAX_ERROR


def _get_keys(_connection: RespConnection, command: list[bytes]) -> Result:
    inner = command[2:]
    spec = find(inner[0])
    if spec is None or b"|" in inner[0]:
        return "-ERR Invalid command specified"
    if not spec.first_key:
        return "-ERR The command has no key arguments"
    if not spec.accepts(len(inner)):
        return "-ERR Invalid number of arguments specified for command"
    return list(spec.keys(inner))


_HELP: Final = (
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands in this server.",
    "LIST [FILTERBY (MODULE <name>|ACLCAT <category>|PATTERN <pattern>)]",
    "    Return a list of all commands in this server.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "    If no command names are given, details for all commands are returned.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
)
_FLAGS: Final = ("loading", "stale")
_PER_COMMAND: Final = "O(N) where N is the number of commands."

SPECS: Final[tuple[CommandSpec, ...]] = (
    container(
        "COMMAND",
        "Returns detailed information about all commands.",
        _HELP,
        (
            local("COMMAND|COUNT", 2, _count, "Returns a count of commands.", flags=_FLAGS),
            local(
                "COMMAND|DOCS",
                -2,
                _docs,
                "Returns documentary information about commands.",
                since="7.0.0",
                flags=_FLAGS,
                complexity=_PER_COMMAND,
            ),
            local(
                "COMMAND|GETKEYS",
                -3,
                _get_keys,
                "Extracts the key names from an arbitrary command.",
                since="2.8.13",
                flags=_FLAGS,
                complexity="O(N) where N is the number of arguments to the command",
            ),
            local(
                "COMMAND|INFO",
                -2,
                _info,
                "Returns information about commands.",
                since="2.8.13",
                flags=_FLAGS,
                complexity=_PER_COMMAND,
            ),
            local(
                "COMMAND|LIST",
                -2,
                _list,
                "Returns a list of command names.",
                since="7.0.0",
                flags=_FLAGS,
                complexity=_PER_COMMAND,
            ),
        ),
        since="2.8.13",
        handler=_all,
    ),
)
