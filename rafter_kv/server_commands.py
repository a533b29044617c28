"""The commands that a connection answers itself, without asking a group."""

from typing import Final

from rafter_kv import (
    server_commands_cluster,
    server_commands_command,
    server_commands_connection,
    server_commands_info,
)
from rafter_kv.command_spec import CommandSpec
from rafter_kv.local_command import PENDING

__all__ = ["PENDING", "SERVER_COMMANDS"]

SERVER_COMMANDS: Final[dict[bytes, CommandSpec]] = {
    spec.name: spec
    for specs in (
        server_commands_connection.SPECS,
        server_commands_info.SPECS,
        server_commands_cluster.SPECS,
        server_commands_command.SPECS,
    )
    for spec in specs
}
