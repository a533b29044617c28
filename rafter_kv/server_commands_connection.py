"""Commands about the connection itself: its protocol, name and identity."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from rafter_kv.local_command import container, local, quoted
from rafter_kv.operations import parse_integer
from rafter_kv.reply_encoding import Verbatim
from rafter_kv.results import NOT_AN_INTEGER, OK, SYNTAX_ERROR
from rafter_kv.version import REDIS_VERSION

if TYPE_CHECKING:
    from rafter_kv.command_spec import CommandSpec, Handler
    from rafter_kv.connection import RespConnection
    from rafter_kv.results import Result

_WRONG_CREDENTIALS: Final = "-WRONGPASS invalid username-password pair or user is disabled."
_NOT_CONFIGURED: Final = (
    "-ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
_BAD_NAME: Final = "-ERR Client names cannot contain spaces, newlines or special characters."
_NAME_BYTES_MAX: Final = 1024
_LONG_NAME: Final = f"-ERR Client names cannot be longer than {_NAME_BYTES_MAX} bytes"
_NOT_AN_INT: Final = "-ERR value is out of range, value must between -2147483648 and 2147483647"
_BAD_ID: Final = "-ERR Invalid client ID"


def _ping(_connection: RespConnection, command: list[bytes]) -> Result:
    if len(command) > 2:
        return "-ERR wrong number of arguments for 'ping' command"
    return command[1] if len(command) == 2 else "+PONG"


def _echo(_connection: RespConnection, command: list[bytes]) -> Result:
    return command[1]


def _quit(connection: RespConnection, _command: list[bytes]) -> Result:
    connection.quit()
    return OK


def _reset(connection: RespConnection, _command: list[bytes]) -> Result:
    connection.protocol = 2
    connection.readonly = False
    connection.name = b""
    return "+RESET"


def _hello(connection: RespConnection, command: list[bytes]) -> Result:
    protocol = connection.protocol
    if len(command) > 1:
        if command[1] not in (b"2", b"3"):
            if parse_integer(command[1]) is None:
                return "-ERR Protocol version is not an integer or out of range"
            return "-NOPROTO unsupported protocol version"
        protocol = int(command[1])
    name = None
    rest = command[2:]
    while rest:
        option = rest[0].upper()
        if option == b"AUTH" and len(rest) > 2:
            if rest[1] != b"default":
                return _WRONG_CREDENTIALS
            rest = rest[3:]
        elif option == b"SETNAME" and len(rest) > 1:
            name = rest[1]
            refusal = _refuse_name(name)
            if refusal is not None:
                return refusal
            rest = rest[2:]
        else:
            return f"-ERR Syntax error in HELLO option '{quoted(rest[0])}'"
    connection.protocol = protocol
    if name is not None:
        connection.name = name
    return {
        b"server": b"redis",
        b"version": REDIS_VERSION.encode(),
        b"proto": protocol,
        b"id": connection.client_id,
        b"mode": b"cluster",
        b"role": b"master",
        b"modules": [],
    }


def _auth(_connection: RespConnection, command: list[bytes]) -> Result:
    # There are no users and passwords yet; as in Redis without them, the user "default" may give
    # any password, and nobody else may come in.
    if len(command) > 3:
        return SYNTAX_ERROR
    if len(command) == 2:
        return _NOT_CONFIGURED
    return OK if command[1] == b"default" else _WRONG_CREDENTIALS


def _select(_connection: RespConnection, command: list[bytes]) -> Result:
    index = parse_integer(command[1])
    if index is None or not -(2**31) <= index < 2**31:
        return NOT_AN_INTEGER if index is None else _NOT_AN_INT
    return OK if index == 0 else "-ERR SELECT is not allowed in cluster mode"


def _ok(_connection: RespConnection, _command: list[bytes]) -> Result:
    return OK


def _readonly(connection: RespConnection, _command: list[bytes]) -> Result:
    connection.readonly = True
    return OK


def _readwrite(connection: RespConnection, _command: list[bytes]) -> Result:
    connection.readonly = False
    return OK


# -- CLIENT --------------------------------------------------------------------------------------


def _refuse_name(name: bytes) -> str | None:
    if any(not 33 <= byte <= 126 for byte in name):
        return _BAD_NAME
    return _LONG_NAME if len(name) > _NAME_BYTES_MAX else None


def _client_id(connection: RespConnection, _command: list[bytes]) -> Result:
    return connection.client_id


def _client_getname(connection: RespConnection, _command: list[bytes]) -> Result:
    return connection.name or None


def _client_setname(connection: RespConnection, command: list[bytes]) -> Result:
    refusal = _refuse_name(command[2])
    if refusal is None:
        connection.name = command[2]
        return OK
    return refusal


def _client_setinfo(connection: RespConnection, command: list[bytes]) -> Result:
    option, value = command[2].lower(), command[3]
    if option not in (b"lib-name", b"lib-ver"):
        return f"-ERR Unrecognized option '{quoted(command[2])}'"
    text = option.decode()
    if any(not 33 <= byte <= 126 for byte in value):
        return f"-ERR {text} cannot contain spaces, newlines or special characters."
    if len(value) > _NAME_BYTES_MAX:
        return f"-ERR {text} cannot be longer than {_NAME_BYTES_MAX} bytes"
    if option == b"lib-name":
        connection.library_name = value
    else:
        connection.library_version = value
    return OK


def _client_switch(_connection: RespConnection, command: list[bytes]) -> Result:
    """CLIENT NO-EVICT and NO-TOUCH: nothing is evicted here, and nothing keeps access times."""
    return OK if command[2].lower() in (b"on", b"off") else SYNTAX_ERROR


def _client_info(connection: RespConnection, _command: list[bytes]) -> Result:
    return Verbatim(_client_line(connection, monotonic(), b"client|info"))


def _client_list(connection: RespConnection, command: list[bytes]) -> Result:
    clients = connection.front_end.clients.connections
    chosen = list(clients.values())
    if len(command) > 2:
        option = command[2].lower()
        if option == b"type" and len(command) == 4:
            kind = command[3].lower()
            if kind not in (b"normal", b"master", b"replica", b"slave", b"pubsub"):
                return f"-ERR Unknown client type '{quoted(command[3])}'"
            chosen = chosen if kind == b"normal" else []
        elif option == b"id" and len(command) > 3:
            numbers = [parse_integer(text) for text in command[3:]]
            if any(number is None or number < 1 for number in numbers):
                return _BAD_ID
            chosen = [clients[n] for n in numbers if n is not None and n in clients]
        else:
            return SYNTAX_ERROR
    now = monotonic()
    return Verbatim(
        b"".join(
            _client_line(client, now, b"client|list" if client is connection else None)
            for client in chosen
        )
    )


def _client_line(client: RespConnection, now: float, command: bytes | None) -> bytes:
    """Describe a client in the fields and order of Redis, those that do not apply being zero."""
    name = command or client.last_name[:32].lower() or b"NULL"
    printable = bytes(byte if 33 <= byte <= 126 else 63 for byte in name)
    fields: tuple[tuple[bytes, object], ...] = (
        (b"id", client.client_id),
        (b"addr", client.peer_address),
        (b"laddr", client.local_address),
        (b"fd", client.file_number),
        (b"name", client.name),
        (b"age", int(now - client.connected_seconds)),
        (b"idle", 0 if command else int(now - client.last_seconds)),
        (b"flags", b"r" if client.readonly else b"N"),
        (b"db", 0),
        (b"sub", 0),
        (b"psub", 0),
        (b"ssub", 0),
        (b"multi", -1),
        (b"qbuf", client.retained_bytes),
        (b"qbuf-free", 0),
        (b"argv-mem", 0),
        (b"multi-mem", 0),
        (b"rbs", 0),
        (b"rbp", 0),
        (b"obl", 0),
        (b"oll", client.unanswered_commands),
        (b"omem", client.write_buffer_bytes),
        (b"tot-mem", client.retained_bytes + client.write_buffer_bytes),
        (b"events", b"r"),
        (b"cmd", printable),
        (b"user", b"default"),
        (b"redir", -1),
        (b"resp", client.protocol),
        (b"lib-name", client.library_name),
        (b"lib-ver", client.library_version),
    )
    return (
        b" ".join(
            key + b"=" + (value if isinstance(value, bytes) else str(value).encode())
            for key, value in fields
        )
        + b"\n"
    )


_CLIENT_HELP: Final = (
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "LIST [options ...]",
    "    Return information about the client connections of this shard. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "    * ID <clientid> [<clientid> ...]",
    "      Return clients with the specified ids.",
    "NO-EVICT (ON|OFF)",
    "    Accepted; there is no eviction.",
    "NO-TOUCH (ON|OFF)",
    "    Accepted; there are no access times.",
    "SETINFO <option> <value>",
    "    Set client meta attributes. Options are: LIB-NAME, LIB-VER.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
)

_CONNECTION: Final = "connection"


def _link(name: str, arity: int, handler: Handler, summary: str, since: str) -> CommandSpec:
    return local(name, arity, handler, summary, since=since, group=_CONNECTION)


_CLIENT: Final = container(
    "CLIENT",
    "A container for client connection commands.",
    _CLIENT_HELP,
    (
        _link("CLIENT|GETNAME", 2, _client_getname, "Returns the name of the connection.", "2.6.9"),
        _link("CLIENT|ID", 2, _client_id, "Returns the ID of the connection.", "5.0.0"),
        _link("CLIENT|INFO", 2, _client_info, "Returns information about the connection.", "6.2.0"),
        _link("CLIENT|LIST", -2, _client_list, "Lists open connections of the shard.", "2.4.0"),
        _link("CLIENT|NO-EVICT", 3, _client_switch, "Accepted for compatibility.", "7.0.0"),
        _link("CLIENT|NO-TOUCH", 3, _client_switch, "Accepted for compatibility.", "7.2.0"),
        _link("CLIENT|SETINFO", 4, _client_setinfo, "Sets library name or version.", "7.2.0"),
        _link("CLIENT|SETNAME", 3, _client_setname, "Sets the connection name.", "2.6.9"),
    ),
    since="2.4.0",
    group=_CONNECTION,
)

SPECS: Final[tuple[CommandSpec, ...]] = (
    _link("PING", -1, _ping, "Returns the server's liveliness response.", "1.0.0"),
    _link("ECHO", 2, _echo, "Returns the given string.", "1.0.0"),
    _link("QUIT", -1, _quit, "Closes the connection.", "1.0.0"),
    _link("RESET", 1, _reset, "Resets the connection.", "6.2.0"),
    _link("HELLO", -1, _hello, "Handshakes with the server.", "6.0.0"),
    _link("AUTH", -2, _auth, "Authenticates the connection.", "1.0.0"),
    _link("SELECT", 2, _select, "Changes the selected database; there is one, 0.", "1.0.0"),
    local("READONLY", 1, _readonly, "Allows reads from replicas.", since="3.0.0", group="cluster"),
    local("READWRITE", 1, _readwrite, "Undoes READONLY.", since="3.0.0", group="cluster"),
    local(
        "ASKING", 1, _ok, "Accepted: no slot is ever half moved.", since="3.0.0", group="cluster"
    ),
    _CLIENT,
)
