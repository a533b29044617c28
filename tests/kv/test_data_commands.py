"""The table, against what a real redis-server says of the same commands."""

from pathlib import Path

import pytest

from rafter_kv.command_spec import Routing
from rafter_kv.data_commands import DATA_COMMANDS, OPERATIONS, READ_OPERATIONS
from tests.kv.redis_comparison import MISSING, MISSING_REASON, running_redis


@pytest.mark.skipif(MISSING, reason=MISSING_REASON)
def test_arity_flags_and_key_positions_are_those_of_redis(tmp_path: Path) -> None:
    with running_redis(tmp_path) as oracle:
        (replies,) = oracle.run([[b"COMMAND", b"INFO", *DATA_COMMANDS]])
    assert isinstance(replies, list)
    for spec, reply in zip(DATA_COMMANDS.values(), replies, strict=True):
        assert isinstance(reply, list)
        _, arity, flags, *positions = reply[:6]
        assert isinstance(flags, list)
        declared = spec.arity, [f"+{flag}" for flag in spec.flags]
        assert declared == (arity, flags), spec.name
        assert [spec.first_key, spec.last_key, spec.key_step] == positions, spec.name


def test_every_command_is_named_canonically_and_runs_somewhere() -> None:
    for name, spec in DATA_COMMANDS.items():
        assert name == spec.name == spec.name.upper()
        assert spec.operation is not None
        assert spec.handler is None
        assert spec.routing is not Routing.LOCAL
        assert spec.summary.endswith(".")
    assert set(OPERATIONS) == set(DATA_COMMANDS)


def test_reads_are_what_is_no_write() -> None:
    writes = {name for name, spec in DATA_COMMANDS.items() if spec.is_write}
    assert set(READ_OPERATIONS) == set(OPERATIONS) - writes
    assert {b"SET", b"GETEX", b"GETDEL", b"FLUSHALL", b"PERSIST"} <= writes
    assert {b"GET", b"SCAN", b"TTL", b"TOUCH"} <= set(READ_OPERATIONS)


def test_a_command_without_keys_goes_to_more_than_one_group() -> None:
    for spec in DATA_COMMANDS.values():
        one_key = spec.routing is Routing.KEY
        assert one_key == ((spec.first_key, spec.last_key) == (1, 1)), spec.name
