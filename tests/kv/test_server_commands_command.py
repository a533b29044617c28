from rafter_kv.command_table import COMMANDS
from rafter_kv.connection import RespConnection
from rafter_kv.results import Result
from rafter_kv.server_commands import SERVER_COMMANDS
from rafter_kv.server_commands_command import find
from tests.kv.fake_front_end import FakeFrontEnd


def ask(*arguments: bytes) -> Result:
    handler = SERVER_COMMANDS[b"COMMAND"].handler
    assert handler is not None
    return handler(RespConnection(FakeFrontEnd()), [b"COMMAND", *arguments])


def test_command_describes_the_whole_table() -> None:
    entries = ask()
    assert isinstance(entries, list)
    assert len(entries) == len(COMMANDS) == ask(b"COUNT")
    assert ask(b"INFO") == entries
    names = ask(b"LIST")
    assert isinstance(names, list)
    assert [entry[0] for entry in entries if isinstance(entry, list)] == names
    docs = ask(b"DOCS")
    assert isinstance(docs, dict)
    assert list(docs) == names


def test_an_entry_has_the_form_that_clients_expect() -> None:
    (entry,) = _list(ask(b"INFO", b"mset"))
    assert entry == [
        b"mset",
        -3,
        ["+write", "+denyoom"],
        1,
        -1,
        2,
        ["+@write", "+@string", "+@slow"],
        [b"request_policy:multi_shard", b"response_policy:all_succeeded"],
        [
            {
                b"flags": ["+RW", "+update"],
                b"begin_search": {b"type": b"index", b"spec": {b"index": 1}},
                b"find_keys": {
                    b"type": b"range",
                    b"spec": {b"lastkey": -1, b"keystep": 2, b"limit": 0},
                },
            }
        ],
        [],
    ]


def test_subcommands_are_found_by_their_full_name() -> None:
    (entry,) = _list(ask(b"INFO", b"Client|ID"))
    assert isinstance(entry, list)
    assert entry[:2] == [b"client|id", 2]
    assert ask(b"INFO", b"client|nope", b"nope|id") == [None, None]
    docs = ask(b"DOCS", b"client|id", b"nope")
    assert isinstance(docs, dict)
    assert list(docs) == [b"client|id"]
    assert find(b"get|") is find(b"get")


def test_lists_can_be_filtered() -> None:
    strings = _list(ask(b"LIST", b"FILTERBY", b"ACLCAT", b"string"))
    assert b"get" in strings
    assert b"del" not in strings
    assert ask(b"LIST", b"FILTERBY", b"PATTERN", b"client|set*") == [
        b"client|setinfo",
        b"client|setname",
    ]


def test_documents_have_a_summary_each() -> None:
    docs = ask(b"DOCS")
    assert isinstance(docs, dict)
    for name, entry in docs.items():
        assert isinstance(entry, dict)
        assert entry[b"summary"], name
        assert entry[b"since"], name
    client = docs[b"client"]
    assert isinstance(client, dict)
    parts = client[b"subcommands"]
    assert isinstance(parts, dict)
    assert b"client|id" in parts


def _list(value: Result) -> list[Result]:
    assert isinstance(value, list)
    return value
