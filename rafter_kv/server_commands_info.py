"""Commands about the server: INFO, CONFIG, TIME, RAFTER.STATUS, and the refusals of others."""

from __future__ import annotations

import os
import platform
import struct
import time
from typing import TYPE_CHECKING, Final

from rafter_kv.local_command import PENDING, container, local, quoted
from rafter_kv.patterns import compile_pattern
from rafter_kv.reply_encoding import Verbatim
from rafter_kv.results import OK, wrong_arity
from rafter_kv.version import RAFTER_VERSION, REDIS_VERSION

if TYPE_CHECKING:
    from rafter_kv.command_spec import CommandSpec
    from rafter_kv.connection import RespConnection
    from rafter_kv.front_end import FrontEnd
    from rafter_kv.results import Result

_STARTED_SECONDS: Final = time.monotonic()

_EVERYTHING: Final = frozenset((b"all", b"everything", b"default"))


def _info(connection: RespConnection, command: list[bytes]) -> Result:
    wanted = {section.lower() for section in command[1:]} or _EVERYTHING
    is_all = not wanted.isdisjoint(_EVERYTHING)
    sections: dict[str, dict[str, object]] = _own_sections(connection.front_end)
    for title, fields in connection.front_end.server_info().items():
        sections.setdefault(title, {}).update(fields)
    texts = [
        f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items())
        for title, fields in sections.items()
        if is_all or title.lower().encode() in wanted
    ]
    return Verbatim("\r\n".join(texts).encode("utf-8", "replace"))


def _own_sections(front_end: FrontEnd) -> dict[str, dict[str, object]]:
    """Return what can be said without the front end: fields that clients and exporters look for.

    The counters are this shard's; the front end overrides them with the node's.
    """
    clients = front_end.clients
    uptime_seconds = int(time.monotonic() - _STARTED_SECONDS)
    return {
        "Server": {
            "redis_version": REDIS_VERSION,
            "server_name": "rafterd",
            "rafter_version": RAFTER_VERSION,
            "redis_mode": "cluster",
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "arch_bits": struct.calcsize("P") * 8,
            "multiplexing_api": "asyncio",
            "process_id": os.getpid(),
            "tcp_port": 0,
            "server_time_usec": time.time_ns() // 1000,
            "uptime_in_seconds": uptime_seconds,
            "uptime_in_days": uptime_seconds // 86400,
        },
        "Clients": {
            "connected_clients": len(clients.connections),
            "maxclients": clients.connections_max,
            "blocked_clients": 0,
        },
        "Memory": {
            "used_memory": 0,
            "maxmemory": 0,
            "maxmemory_policy": "noeviction",
        },
        "Persistence": {
            "loading": 0,
            "async_loading": 0,
            "rdb_bgsave_in_progress": 0,
            "rdb_last_bgsave_status": "ok",
            "aof_enabled": 0,
            "aof_rewrite_in_progress": 0,
        },
        "Stats": {
            "total_connections_received": clients.connections_total,
            "total_commands_processed": clients.commands_total,
            "total_net_input_bytes": clients.request_bytes_total,
            "rejected_connections": clients.rejected_total,
            "total_protocol_errors": clients.protocol_errors_total,
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "CPU": _processor_seconds(),
        "Cluster": {"cluster_enabled": 1},
        "Keyspace": {},
        "Raft": {},
    }


def _processor_seconds() -> dict[str, object]:
    times = os.times()
    return {
        "used_cpu_sys": f"{times.system:.6f}",
        "used_cpu_user": f"{times.user:.6f}",
    }


def _config_get(connection: RespConnection, command: list[bytes]) -> Result:
    front_end = connection.front_end
    limits = front_end.limits
    parameters: dict[str, str] = {
        "appendonly": "no",
        "bind": "",
        "client-query-buffer-limit": str(limits.query_buffer_bytes_max),
        "cluster-enabled": "yes",
        "databases": "1",
        "maxclients": str(limits.connections_max),
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "notify-keyspace-events": "",
        "port": "0",
        "proto-max-bulk-len": str(limits.bulk_bytes_max),
        "save": "",
        "timeout": "0",
        "rafter-key-bytes-max": str(limits.key_bytes_max),
        "rafter-value-bytes-max": str(limits.value_bytes_max),
    }
    parameters.update(front_end.configuration())
    matchers = [compile_pattern(pattern.lower()) for pattern in command[2:]]
    return {
        name.encode(): value.encode()
        for name, value in sorted(parameters.items())
        if any(matches(name.encode()) for matches in matchers)
    }


def _config_resetstat(connection: RespConnection, _command: list[bytes]) -> Result:
    connection.front_end.reset_statistics()
    return OK


def _config_set(_connection: RespConnection, command: list[bytes]) -> Result:
    if len(command) % 2:
        return wrong_arity(b"CONFIG|SET")
    name = quoted(command[2])
    return (
        f"-ERR CONFIG SET failed (possibly related to argument '{name}') - "
        "settings are changed in the configuration file of rafterd"
    )


def _config_rewrite(_connection: RespConnection, _command: list[bytes]) -> Result:
    return "-ERR The server never writes its configuration file"


def _time(_connection: RespConnection, _command: list[bytes]) -> Result:
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return [b"%d" % seconds, b"%d" % microseconds]


def _function_flush(_connection: RespConnection, command: list[bytes]) -> Result:
    """Answer FUNCTION FLUSH: there never are functions, so none are left."""
    if len(command) > 3 or (len(command) == 3 and command[2].upper() not in (b"SYNC", b"ASYNC")):
        return "-ERR FUNCTION FLUSH only supports SYNC|ASYNC option"
    return OK


def _debug(_connection: RespConnection, _command: list[bytes]) -> Result:
    return "-ERR DEBUG command not allowed."


def _status(connection: RespConnection, _command: list[bytes]) -> Result:
    slot = connection.current_slot
    assert slot is not None, "a handler runs while its command has a slot"
    connection.front_end.request_status(slot, connection.current_position)
    return PENDING


def _replace(connection: RespConnection, command: list[bytes]) -> Result:
    number = command[1]
    if not number.isdigit() or len(number) > 5:
        return "-ERR the id of a node is a number from 1 to 65535"
    slot = connection.current_slot
    assert slot is not None, "a handler runs while its command has a slot"
    connection.front_end.request_replacement(int(number), slot, connection.current_position)
    return PENDING


_CONFIG_HELP: Final = (
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "RESETSTAT",
    "    Reset statistics reported by the INFO command.",
    "REWRITE",
    "    Refused: the server never writes its configuration file.",
    "SET <directive> <value>",
    "    Refused: settings are changed in the configuration file.",
)
_FUNCTION_HELP: Final = (
    "FLUSH [ASYNC|SYNC]",
    "    Delete all the libraries. There are none.",
)
_ADMIN: Final = ("admin", "noscript", "loading", "stale")

SPECS: Final[tuple[CommandSpec, ...]] = (
    local("INFO", -1, _info, "Returns information about the server.", flags=("loading", "stale")),
    local("TIME", 1, _time, "Returns the server time.", since="2.6.0"),
    local("DEBUG", -2, _debug, "Refused: not for production.", flags=_ADMIN),
    local(
        "RAFTER.STATUS",
        1,
        _status,
        "Returns the nodes, shards and groups of the cluster.",
        since="7.2.4",
        flags=("loading", "stale"),
        complexity="O(N) where N is the number of groups and nodes.",
    ),
    local(
        "RAFTER.REPLACE",
        2,
        _replace,
        "Gives up a lost node, so that an empty one can take its place under its id.",
        since="7.2.4",
        flags=_ADMIN,
        complexity="O(N) where N is the number of groups.",
    ),
    container(
        "CONFIG",
        "A container for server configuration commands.",
        _CONFIG_HELP,
        (
            local(
                "CONFIG|GET", -3, _config_get, "Returns parameters.", since="2.0.0", flags=_ADMIN
            ),
            local("CONFIG|SET", -4, _config_set, "Refused.", since="2.0.0", flags=_ADMIN),
            local("CONFIG|RESETSTAT", 2, _config_resetstat, "Resets counters.", flags=_ADMIN),
            local("CONFIG|REWRITE", 2, _config_rewrite, "Refused.", since="2.8.0", flags=_ADMIN),
        ),
        since="2.0.0",
    ),
    container(
        "FUNCTION",
        "A container for function commands; there are no functions.",
        _FUNCTION_HELP,
        (
            local(
                "FUNCTION|FLUSH",
                -2,
                _function_flush,
                "Deletes all libraries; there are none.",
                since="7.0.0",
                group="scripting",
                flags=("noscript", "write"),
            ),
        ),
        since="7.0.0",
        group="scripting",
    ),
)
