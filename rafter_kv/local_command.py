"""Declare commands of the connection and the node: those that are answered where they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from rafter_kv.command_spec import CommandSpec, Handler
from rafter_kv.reply_encoding import error_text
from rafter_kv.results import wrong_arity

if TYPE_CHECKING:
    from rafter_kv.connection import RespConnection
    from rafter_kv.results import Result

QUOTED_BYTES_MAX: Final = 128


class _Pending(str):
    __slots__ = ()


PENDING: Final[str] = _Pending("+PENDING")
"""What a handler returns whose reply is filled into the slot later. Compared by identity."""


def local(
    name: str,
    arity: int,
    handler: Handler,
    summary: str,
    *,
    since: str = "1.0.0",
    group: str = "server",
    flags: tuple[str, ...] = ("loading", "stale", "fast"),
    complexity: str = "O(1)",
) -> CommandSpec:
    """Declare one command, or with a name such as "CLIENT|ID" one subcommand."""
    return CommandSpec(
        name=name.encode(),
        arity=arity,
        flags=flags,
        handler=handler,
        summary=summary,
        since=since,
        group=group,
        complexity=complexity,
    )


def container(
    name: str,
    summary: str,
    help_lines: tuple[str, ...],
    subcommands: tuple[CommandSpec, ...],
    *,
    since: str = "1.0.0",
    group: str = "server",
    handler: Handler | None = None,
) -> CommandSpec:
    """Declare a command that has subcommands. HELP comes of itself, from `help_lines`.

    `handler` answers the bare command; without one it has too few arguments.
    """
    first = f"+{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    text = [first, *(f"+{line}" for line in help_lines), "+HELP", "+    Prints this help."]

    def answer_help(_connection: RespConnection, _command: list[bytes]) -> Result:
        return list(text)

    flags = ("loading", "stale")
    help_spec = local(
        f"{name}|HELP",
        2,
        answer_help,
        "Returns helpful text about the different subcommands.",
        since=since,
        group=group,
        flags=flags,
    )
    specs = (*subcommands, help_spec)
    by_name = {spec.name.partition(b"|")[2]: spec for spec in specs}
    canonical = name.encode()

    def answer(connection: RespConnection, command: list[bytes]) -> Result:
        if len(command) == 1:
            return handler(connection, command) if handler else wrong_arity(canonical)
        spec = by_name.get(command[1].upper())
        if spec is None:
            return unknown_subcommand(name, command[1])
        if not spec.accepts(len(command)):
            return wrong_arity(spec.name)
        return cast("Handler", spec.handler)(connection, command)

    return CommandSpec(
        name=canonical,
        arity=-1 if handler else -2,
        flags=flags if handler else (),
        handler=answer,
        summary=summary,
        since=since,
        group=group,
        complexity="Depends on subcommand.",
        subcommands=specs,
    )


def quoted(argument: bytes) -> str:
    """Return the part of a client's bytes that Redis would quote in an error: 128, or to a NUL."""
    return error_text(argument[:QUOTED_BYTES_MAX].partition(b"\0")[0])


def unknown_subcommand(name: str, subcommand: bytes) -> str:
    """Return Redis's answer to a subcommand that a container does not have."""
    return f"-ERR unknown subcommand '{quoted(subcommand)}'. Try {name} HELP."


def unknown_command(command: list[bytes]) -> str:
    """Return Redis's answer to a name that is no command, quoting its first arguments."""
    arguments = ""
    length = 0
    for argument in command[1:]:
        if length >= QUOTED_BYTES_MAX:
            break
        part = argument[: QUOTED_BYTES_MAX - length].partition(b"\0")[0]
        length += len(part) + 3
        arguments += f"'{error_text(part)}' "
    name = quoted(command[0])
    return f"-ERR unknown command '{name}', with args beginning with: {arguments}"
