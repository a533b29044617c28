from rafter_kv.data_commands import OPERATIONS
from rafter_kv.keyspace import KeySpace
from rafter_kv.operations_keys import SCAN_COUNT_MAX
from rafter_kv.results import INVALID_CURSOR, Result
from rafter_kv.slots import POSITION_BITS


def run(keyspace: KeySpace, line: bytes, now_ms: int = 0) -> Result:
    arguments = line.split(b" ")
    return OPERATIONS[arguments[0]](keyspace, arguments, now_ms)


def scan_all(keyspace: KeySpace, options: bytes) -> tuple[list[Result], int]:
    found: list[Result] = []
    position, steps = b"0", 0
    while steps == 0 or position != b"0":
        result = run(keyspace, b"SCAN %b%b" % (position, options))
        assert isinstance(result, list)
        next_position, page = result
        assert isinstance(next_position, bytes)
        assert isinstance(page, list)
        found += page
        position, steps = next_position, steps + 1
    return found, steps


def filled(count: int) -> KeySpace:
    keyspace = KeySpace()
    for number in range(count):
        keyspace.put(b"key:%d" % number, b"v")
    return keyspace


def test_scan_returns_about_count_keys_at_a_time() -> None:
    keyspace = filled(1000)
    assert scan_all(keyspace, b"")[1] in range(90, 102)
    assert scan_all(keyspace, b" COUNT 100")[1] in range(9, 12)
    assert scan_all(keyspace, b" COUNT %d" % (SCAN_COUNT_MAX * 10))[1] == 1


def test_scan_filters_after_it_counts() -> None:
    found, steps = scan_all(filled(1000), b" MATCH key:99*")
    assert sorted(map(repr, found)) == sorted(
        repr(b"key:%d" % number) for number in (99, *range(990, 1000))
    )
    assert steps in range(90, 102)
    assert scan_all(filled(20), b" TYPE hash")[0] == []


def test_scan_refuses_positions_that_do_not_exist() -> None:
    assert run(KeySpace(), b"SCAN %d" % (1 << POSITION_BITS)) == INVALID_CURSOR
    assert run(KeySpace(), b"SCAN -1") == INVALID_CURSOR


def test_keys_hides_what_is_due_and_dbsize_counts_it() -> None:
    keyspace = filled(3)
    keyspace.set_deadline(b"key:1", 50)
    found = run(keyspace, b"KEYS *", 50)
    assert isinstance(found, list)
    assert sorted(map(repr, found)) == ["b'key:0'", "b'key:2'"]
    assert run(keyspace, b"DBSIZE", 50) == 3


def test_a_key_named_twice_is_counted_twice_and_deleted_once() -> None:
    keyspace = filled(1)
    assert run(keyspace, b"EXISTS key:0 key:0 none") == 2
    assert run(keyspace, b"UNLINK key:0 key:0 none") == 1


def test_flush_takes_the_deadlines_too() -> None:
    keyspace = filled(3)
    keyspace.set_deadline(b"key:1", 50)
    assert run(keyspace, b"FLUSHALL async") == "+OK"
    assert (keyspace.key_count, keyspace.expires_count) == (0, 0)
    keyspace.put(b"key:1", b"v")
    assert keyspace.remove_due(1000, 10) == 0
