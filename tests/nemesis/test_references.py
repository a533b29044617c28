"""The judge can say both: nothing against etcd, and something against Redis's failover."""

from pathlib import Path

import pytest

from tests.linear.history import Outcome
from tests.nemesis import etcd, redis_replicas
from tests.nemesis.etcd import reply_of, request_of
from tests.nemesis.references import judge_etcd, judge_redis, violations


@pytest.mark.long
def test_etcd_whose_nodes_are_killed_and_paused_violates_nothing(tmp_path: Path) -> None:
    if reason := etcd.why_absent():
        pytest.skip(reason)
    recorder, checks = judge_etcd(tmp_path, seconds=5.0, seed=1)
    assert [check for check in checks if not check.is_passed] == []
    outcomes = [operation.outcome for operation in recorder.history.operations]
    assert outcomes.count(Outcome.OK) > 100
    kinds = {operation.kind for operation in recorder.history.operations}
    assert kinds >= {"read", "write", "get_and_set", "set_if_absent", "delete"}


def test_redis_that_fails_over_by_force_loses_writes_and_is_caught(tmp_path: Path) -> None:
    if reason := redis_replicas.why_absent():
        pytest.skip(reason)
    _, checks = judge_redis(tmp_path, seconds=3.0, seed=1)
    cheaply, linear = checks
    assert cheaply.lost > 0
    assert linear.problems
    assert linear.undecided == 0


def test_redis_that_nothing_happens_to_violates_nothing(tmp_path: Path) -> None:
    if reason := redis_replicas.why_absent():
        pytest.skip(reason)
    recorder, checks = judge_redis(tmp_path, seconds=1.5, seed=1, is_failing_over=False)
    assert violations(checks) == 0
    assert len(recorder.history.operations) > 100


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ((b"GET", b"k"), "/v3/kv/range"),
        ((b"SET", b"k", b"v"), "/v3/kv/put"),
        ((b"DEL", b"k"), "/v3/kv/deleterange"),
        ((b"GETSET", b"k", b"v"), "/v3/kv/put"),
        ((b"SET", b"k", b"v", b"NX"), "/v3/kv/txn"),
    ],
)
def test_commands_become_requests_to_etcd(words: tuple[bytes, ...], path: str) -> None:
    assert request_of(words)[0] == path


def test_answers_of_etcd_become_replies() -> None:
    found = {"value": etcd.encode(b"v")}
    assert reply_of((b"GET", b"k"), {"kvs": [found]}) == b"v"
    assert reply_of((b"GET", b"k"), {}) is None
    assert reply_of((b"DEL", b"k"), {"deleted": "1"}) == 1
    assert reply_of((b"DEL", b"k"), {}) == 0
    assert reply_of((b"GETSET", b"k", b"w"), {"prev_kv": found}) == b"v"
    assert reply_of((b"GETSET", b"k", b"w"), {}) is None
    assert reply_of((b"SET", b"k", b"v"), {}) == b"OK"
    assert reply_of((b"SET", b"k", b"v", b"NX"), {"succeeded": True}) == b"OK"
    assert reply_of((b"SET", b"k", b"v", b"NX"), {}) is None
