import pytest
import redis

from rafter_kv.slots import group_by_slot, slot_of
from tests.kv.fake_front_end import FakeFrontEnd, serving
from tests.kv.raw_client import RawClient

GROUPS = 7
_table = group_by_slot(GROUPS)
KEYS = [b"key:%d" % number for number in range(40)]


def group_of(key: bytes) -> int:
    return _table[slot_of(key)]


def test_commands_of_many_keys_are_split_by_group_and_joined_again() -> None:
    assert len({group_of(key) for key in KEYS}) == GROUPS
    front_end = FakeFrontEnd(GROUPS)
    with serving(front_end) as server, redis.Redis(port=server.port, protocol=2) as client:
        for key in KEYS:
            client.set(key, b"value of " + key)
        absent = [b"absent:%d" % number for number in range(20)]
        mixed = [key for pair in zip(KEYS, absent, strict=False) for key in pair]
        front_end.submitted.clear()
        expected = [b"value of " + key if key in KEYS else None for key in mixed]
        assert client.mget(mixed) == expected
        parts = list(front_end.submitted)
        assert len(parts) == len({group_of(key) for key in mixed})
        for group, command, is_write in parts:
            assert not is_write
            assert {group_of(key) for key in command[1:]} == {group}
        assert client.exists(*mixed, KEYS[0]) == 21
        assert client.touch(*mixed) == 20
        assert client.delete(*mixed) == 20
        assert client.unlink(*KEYS) == 20
        assert client.dbsize() == 0


def test_keys_of_one_group_go_as_one_command() -> None:
    front_end = FakeFrontEnd(GROUPS)
    with serving(front_end) as server, RawClient(server.port) as client:
        client.command(b"MGET", b"{t}a", b"{t}b", b"{t}a")
        assert [command for _, command, _ in front_end.submitted] == [
            [b"MGET", b"{t}a", b"{t}b", b"{t}a"]
        ]


def test_mset_of_several_groups_is_refused_as_a_whole() -> None:
    front_end = FakeFrontEnd(GROUPS)
    one, other = KEYS[0], next(key for key in KEYS if group_of(key) != group_of(KEYS[0]))
    same = next(key for key in KEYS[1:] if group_of(key) == group_of(one))
    with serving(front_end) as server, RawClient(server.port) as client:
        refusal = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
        for name in (b"MSET", b"MSETNX"):
            assert client.command(name, one, b"1", other, b"2") == refusal
        assert front_end.submitted == []
        assert client.command(b"MSET", one, b"1", same, b"2") == b"+OK\r\n"


def test_a_wrong_number_of_pairs_in_mset_is_an_error() -> None:
    with serving() as server, RawClient(server.port) as client:
        assert client.command(b"MSET", b"a", b"1", b"a") == (
            b"-ERR wrong number of arguments for 'mset' command\r\n"
        )


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_a_scan_walks_every_group_and_finds_every_key(count: int) -> None:
    with serving(FakeFrontEnd(GROUPS)) as server, redis.Redis(port=server.port) as client:
        for key in KEYS:
            client.set(key, 1)
        assert sorted(client.scan_iter(count=count)) == sorted(KEYS)
        assert sorted(client.scan_iter("key:1*", count=count)) == sorted(
            key for key in KEYS if key.startswith(b"key:1")
        )
        assert sorted(client.keys("*")) == sorted(KEYS)
        assert client.flushall()
        assert list(client.scan_iter()) == []


@pytest.mark.parametrize("cursor", [b"x", b"-1", b"", b"99999999999999999999", b"%d" % (7 << 34)])
def test_a_cursor_that_no_scan_returned_is_refused(cursor: bytes) -> None:
    with serving(FakeFrontEnd(GROUPS)) as server, RawClient(server.port) as client:
        assert client.command(b"SCAN", cursor) == b"-ERR invalid cursor\r\n"
