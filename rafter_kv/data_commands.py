"""The commands on keys: what the state machine runs, declared as Redis 7.2 declares them.

The state machine finds operations here by canonical name, so a name that was ever written to a
log stays, and goes on meaning the same.
"""

from typing import NamedTuple

from rafter_kv import operations_counters as counters
from rafter_kv import operations_expiry as expiry
from rafter_kv import operations_keys as keys
from rafter_kv import operations_strings as strings
from rafter_kv.command_spec import CommandSpec, Operation, Routing

# Flags, as COMMAND reports them.
_READ = ("readonly",)
_READ_FAST = ("readonly", "fast")
_WRITE = ("write",)
_WRITE_FAST = ("write", "fast")
_GROW = ("write", "denyoom")
_GROW_FAST = ("write", "denyoom", "fast")

# Positions of the keys: first, last, step.
_ONE = (1, 1, 1)
_EACH = (1, -1, 1)
_PAIRS = (1, -1, 2)
_NONE = (0, 0, 0)


class _Row(NamedTuple):
    """One line of the tables below; ``_DOCUMENTATION`` has its texts."""

    name: str
    arity: int
    flags: tuple[str, ...]
    operation: Operation
    positions: tuple[int, int, int] = _ONE
    routing: Routing = Routing.KEY


_STRING_ROWS = (
    _Row("APPEND", 3, _GROW_FAST, strings.append),
    _Row("DECR", 2, _GROW_FAST, counters.decr),
    _Row("DECRBY", 3, _GROW_FAST, counters.decrby),
    _Row("GET", 2, _READ_FAST, strings.get),
    _Row("GETDEL", 2, _WRITE_FAST, strings.getdel),
    _Row("GETEX", -2, _WRITE_FAST, strings.getex),
    _Row("GETRANGE", 4, _READ, strings.getrange),
    _Row("GETSET", 3, _GROW_FAST, strings.getset),
    _Row("INCR", 2, _GROW_FAST, counters.incr),
    _Row("INCRBY", 3, _GROW_FAST, counters.incrby),
    _Row("INCRBYFLOAT", 3, _GROW_FAST, counters.incrbyfloat),
    _Row("MGET", -2, _READ_FAST, strings.mget, _EACH, Routing.SPLIT_ARRAY),
    _Row("MSET", -3, _GROW, strings.mset, _PAIRS, Routing.SAME_GROUP),
    _Row("MSETNX", -3, _GROW, strings.mset, _PAIRS, Routing.SAME_GROUP),
    _Row("PSETEX", 4, _GROW, strings.setex),
    _Row("SET", -3, _GROW, strings.set_),
    _Row("SETEX", 4, _GROW, strings.setex),
    _Row("SETNX", 3, _GROW_FAST, strings.setnx),
    _Row("SETRANGE", 4, _GROW, strings.setrange),
    _Row("STRLEN", 2, _READ_FAST, strings.strlen),
    _Row("SUBSTR", 4, _READ, strings.getrange),
)

_GENERIC_ROWS = (
    _Row("DEL", -2, _WRITE, keys.delete, _EACH, Routing.SPLIT_SUM),
    _Row("EXISTS", -2, _READ_FAST, keys.exists, _EACH, Routing.SPLIT_SUM),
    _Row("EXPIRE", -3, _WRITE_FAST, expiry.expire),
    _Row("EXPIREAT", -3, _WRITE_FAST, expiry.expire),
    _Row("EXPIRETIME", 2, _READ_FAST, expiry.ttl),
    _Row("KEYS", 2, _READ, keys.keys, _NONE, Routing.ALL_CONCAT),
    _Row("PERSIST", 2, _WRITE_FAST, expiry.persist),
    _Row("PEXPIRE", -3, _WRITE_FAST, expiry.expire),
    _Row("PEXPIREAT", -3, _WRITE_FAST, expiry.expire),
    _Row("PEXPIRETIME", 2, _READ_FAST, expiry.ttl),
    _Row("PTTL", 2, _READ_FAST, expiry.ttl),
    _Row("SCAN", -2, _READ, keys.scan, _NONE, Routing.CURSOR),
    _Row("TOUCH", -2, _READ_FAST, keys.exists, _EACH, Routing.SPLIT_SUM),
    _Row("TTL", 2, _READ_FAST, expiry.ttl),
    _Row("TYPE", 2, _READ_FAST, keys.type_),
    _Row("UNLINK", -2, _WRITE_FAST, keys.delete, _EACH, Routing.SPLIT_SUM),
)

_SERVER_ROWS = (
    _Row("DBSIZE", 1, _READ_FAST, keys.dbsize, _NONE, Routing.ALL_SUM),
    _Row("FLUSHALL", -1, _WRITE, keys.flush, _NONE, Routing.ALL_OK),
    _Row("FLUSHDB", -1, _WRITE, keys.flush, _NONE, Routing.ALL_OK),
)

_PER_KEY = "O(N) where N is the number of keys given."
_PER_KEY_HELD = "O(N) where N is the number of keys in the key space."
_PER_BYTE = "O(N) where N is the length of the value."

# Name -> (since, summary), with the complexity where it is not O(1).
_DOCUMENTATION: dict[str, tuple[str, ...]] = {
    "APPEND": ("2.0.0", "Appends to the value of a key, creating it if needed.", _PER_BYTE),
    "DECR": ("1.0.0", "Decrements the integer value of a key by one."),
    "DECRBY": ("1.0.0", "Decrements the integer value of a key by a number."),
    "GET": ("1.0.0", "Returns the value of a key."),
    "GETDEL": ("6.2.0", "Returns the value of a key and deletes the key."),
    "GETEX": ("6.2.0", "Returns the value of a key and sets or removes its expiration."),
    "GETRANGE": ("2.4.0", "Returns a part of the value of a key.", _PER_BYTE),
    "GETSET": ("1.0.0", "Sets the value of a key and returns the previous one."),
    "INCR": ("1.0.0", "Increments the integer value of a key by one."),
    "INCRBY": ("1.0.0", "Increments the integer value of a key by a number."),
    "INCRBYFLOAT": ("2.6.0", "Increments the floating point value of a key by a number."),
    "MGET": ("1.0.0", "Returns the values of one or more keys.", _PER_KEY),
    "MSET": ("1.0.1", "Sets the values of one or more keys, all at once.", _PER_KEY),
    "MSETNX": ("1.0.1", "Sets the values of keys, all or none: none if one exists.", _PER_KEY),
    "PSETEX": ("2.6.0", "Sets the value of a key and its expiration in milliseconds."),
    "SET": ("1.0.0", "Sets the value of a key, with a condition or an expiration if wanted."),
    "SETEX": ("2.0.0", "Sets the value of a key and its expiration in seconds."),
    "SETNX": ("1.0.0", "Sets the value of a key only if the key does not exist."),
    "SETRANGE": ("2.2.0", "Overwrites a part of the value of a key from an offset on.", _PER_BYTE),
    "STRLEN": ("2.2.0", "Returns the length of the value of a key."),
    "SUBSTR": ("1.0.0", "Returns a part of the value of a key: GETRANGE's old name.", _PER_BYTE),
    "DEL": ("1.0.0", "Deletes one or more keys.", _PER_KEY),
    "EXISTS": ("1.0.0", "Counts those of the given keys that exist.", _PER_KEY),
    "EXPIRE": ("1.0.0", "Sets the expiration of a key in seconds from now."),
    "EXPIREAT": ("1.2.0", "Sets the expiration of a key to a Unix time in seconds."),
    "EXPIRETIME": ("7.0.0", "Returns the expiration of a key as a Unix time in seconds."),
    "KEYS": ("1.0.0", "Returns all keys that match a pattern.", _PER_KEY_HELD),
    "PERSIST": ("2.2.0", "Removes the expiration of a key."),
    "PEXPIRE": ("2.6.0", "Sets the expiration of a key in milliseconds from now."),
    "PEXPIREAT": ("2.6.0", "Sets the expiration of a key to a Unix time in milliseconds."),
    "PEXPIRETIME": ("7.0.0", "Returns the expiration of a key as a Unix time in milliseconds."),
    "PTTL": ("2.6.0", "Returns the time a key has left in milliseconds."),
    "SCAN": ("2.8.0", "Iterates over the keys, a few at a time.", "O(1) for every call."),
    "TOUCH": ("3.2.1", "Counts those of the given keys that exist.", _PER_KEY),
    "TTL": ("1.0.0", "Returns the time a key has left in seconds."),
    "TYPE": ("1.0.0", "Returns the type of the value of a key."),
    "UNLINK": ("4.0.0", "Deletes one or more keys.", _PER_KEY),
    "DBSIZE": ("1.0.0", "Returns the number of keys."),
    "FLUSHALL": ("1.0.0", "Deletes all keys.", _PER_KEY_HELD),
    "FLUSHDB": ("1.0.0", "Deletes all keys: there is one database.", _PER_KEY_HELD),
}


def _declare(group: str, row: _Row) -> CommandSpec:
    since, summary, *complexity = _DOCUMENTATION[row.name]
    first_key, last_key, key_step = row.positions
    return CommandSpec(
        name=row.name.encode(),
        arity=row.arity,
        flags=row.flags,
        first_key=first_key,
        last_key=last_key,
        key_step=key_step,
        is_write="write" in row.flags,
        routing=row.routing,
        operation=row.operation,
        summary=summary,
        since=since,
        group=group,
        complexity=complexity[0] if complexity else "O(1)",
    )


#: Canonical name -> declaration, in the order of the tables above.
DATA_COMMANDS: dict[bytes, CommandSpec] = {
    row.name.encode(): _declare(group, row)
    for group, rows in (
        ("string", _STRING_ROWS),
        ("generic", _GENERIC_ROWS),
        ("server", _SERVER_ROWS),
    )
    for row in rows
}

#: Canonical name -> what runs it, for the apply loop.
OPERATIONS: dict[bytes, Operation] = {
    name: spec.operation for name, spec in DATA_COMMANDS.items() if spec.operation is not None
}

#: The same for commands that change nothing.
READ_OPERATIONS: dict[bytes, Operation] = {
    name: operation for name, operation in OPERATIONS.items() if not DATA_COMMANDS[name].is_write
}
