"""The status reply: both protocols, fields that are missing, fields that are new."""

from __future__ import annotations

import io
import json
import sys

import hiredis
import pytest

from rafter_kv.cli_output import Output
from rafter_kv.cli_status import Status, parse_status, write_status
from rafter_kv.client import ServerError
from tests.kv.resp_server import encode

FULL = {
    "nodes": [
        {"id": 1, "address": "a:1", "client": "a:2", "state": "up", "version": "0.1", "shards": 2},
        {"id": 2, "address": "b:1", "client": "b:2", "state": "unreachable"},
    ],
    "shards": [
        {"node": 1, "shard": 0, "state": "serving", "clients": 3, "commands": 10, "memory_bytes": 5}
    ],
    "groups": [
        {
            "group": 1,
            "slots": "0-8191",
            "members": [1, 2],
            "leader": 1,
            "term": 3,
            "replicas": [
                {"node": 1, "role": "leader", "commit": 9, "applied": 9, "last_index": 10},
                {"node": 2, "role": "follower", "commit": 8, "applied": 8, "last_index": 9},
            ],
        },
        {"group": 2, "slots": "8192-16383", "members": [1, 2], "leader": 0, "replicas": []},
    ],
    "since_the_next_version": [1, 2],
}


def received(value: object, *, resp3: bool) -> object:
    """Return `value` as the client gets it from the wire."""
    reader = hiredis.Reader()
    reader.feed(encode(value, resp3=resp3))
    return reader.gets()


def printed(status: Status, form: str, monkeypatch: pytest.MonkeyPatch) -> str:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer))
    write_status(status, Output(form))
    return buffer.getvalue().decode()


def test_both_protocols_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = [parse_status(received(FULL, resp3=resp3)) for resp3 in (True, False)]
    for form in ("plain", "table"):
        texts = {printed(status, form, monkeypatch) for status in statuses}
        assert len(texts) == 1


def test_json_keeps_every_field_known_or_new(monkeypatch: pytest.MonkeyPatch) -> None:
    status = parse_status(received(FULL, resp3=True))
    assert json.loads(printed(status, "json", monkeypatch)) == FULL


def test_plain_has_one_line_for_each_node_shard_and_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = printed(parse_status(FULL), "plain", monkeypatch).splitlines()
    assert lines == [
        "node\t1\tup\ta:1\ta:2\t0.1\t2",
        "node\t2\tunreachable\tb:1\tb:2\t\t",
        "shard\t1\t0\tserving\t3\t10\t\t5",
        "group\t1\t0-8191\t1,2\t1\t3\t1\tleader\t\t9\t9\t10\t",
        "group\t1\t0-8191\t1,2\t1\t3\t2\tfollower\t\t8\t8\t9\t",
        "group\t2\t8192-16383\t1,2\tnone\t\t\t\t\t\t\t\t",
    ]


def test_a_table_aligns_its_columns_under_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(parse_status(FULL), "table", monkeypatch).splitlines()
    assert lines[:4] == [
        "Nodes",
        "ID  STATE        ADDRESS  CLIENT  VERSION  SHARDS",
        "1   up           a:1      a:2     0.1      2",
        "2   unreachable  b:1      b:2",
    ]


def test_groups_without_leader_are_found() -> None:
    groups: list[object] = [{"group": 1, "leader": 3}, {"group": 2, "leader": 0}, {"group": 3}]
    found = parse_status({"groups": groups}).groups_without_leader()
    assert [group["group"] for group in found] == [2, 3]


def test_an_empty_reply_is_an_empty_status() -> None:
    assert parse_status({}) == Status([], [], [], {})


@pytest.mark.parametrize(
    "reply",
    [None, b"OK", 7, [b"odd"], {b"nodes": 7}, {b"nodes": [7]}, {b"groups": [{b"replicas": 1}]}],
)
def test_what_is_no_status_is_an_error(reply: object) -> None:
    with pytest.raises(ServerError, match=r"unexpected reply to RAFTER\.STATUS"):
        parse_status(reply)
