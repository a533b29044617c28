from http import HTTPStatus

import pytest

from rafterd.health import Check, ShardFact, health_response, live_checks, ready_checks
from rafterd.http_server import Response, parse_request
from rafterd.shared import GroupState, GroupWord, SharedState


def fact(shard: int, **changes: bool) -> ShardFact:
    alive, serving = changes.get("is_alive", True), changes.get("is_serving", True)
    return ShardFact(shard, 100 + shard, alive, serving, 0)


@pytest.fixture
def shared() -> SharedState:
    shared = SharedState(2, 3)
    for group in (1, 3):
        shared.set_group(group, GroupWord.STATE, GroupState.SERVING)
        shared.set_route(group, 2, 5)
    return shared


def troubles(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.trouble for check in checks if check.trouble}


def ready(
    shared: SharedState, facts: list[ShardFact] | None = None, *, is_stopping: bool = False
) -> list[Check]:
    return ready_checks(facts or [fact(0), fact(1)], shared, [1, 3], is_stopping=is_stopping)


def test_a_node_is_ready_when_shards_and_its_own_groups_are(shared: SharedState) -> None:
    assert troubles(ready(shared)) == {}


def test_a_group_without_a_known_leader_is_not_ready(shared: SharedState) -> None:
    shared.set_route(3, 0, 6)
    assert troubles(ready(shared)) == {"group_3": "no leader is known"}


@pytest.mark.parametrize(
    ("state", "trouble"),
    [
        (GroupState.ABSENT, "it has not started yet"),
        (GroupState.STARTING, "it has not started yet"),
        (GroupState.DAMAGED, "its log is damaged, see the shard's log"),
    ],
)
def test_a_group_that_does_not_serve_is_not_ready(
    shared: SharedState, state: GroupState, trouble: str
) -> None:
    shared.set_group(1, GroupWord.STATE, state)
    assert troubles(ready(shared)) == {"group_1": trouble}


def test_a_shard_that_does_not_serve_or_a_stop_is_not_ready(shared: SharedState) -> None:
    facts = [fact(0), fact(1, is_serving=False)]
    assert troubles(ready(shared, facts)) == {"shard_1": "it does not serve yet"}
    assert troubles(ready(shared, is_stopping=True)) == {"node": "it is stopping"}


def test_alive_asks_only_for_the_pulse() -> None:
    facts = [fact(0, is_serving=False), fact(1, is_alive=False)]
    assert troubles(live_checks(facts)) == {"shard_1": "its process does not answer"}


def respond(checks: list[Check], target: str = "/readyz") -> Response:
    return health_response("readyz", checks, parse_request(f"GET {target} HTTP/1.1".encode()))


def test_the_answer_is_ok_or_the_list_of_failures() -> None:
    good, bad = Check("a", ""), Check("b", "it is broken")
    assert respond([good])[:2] == (HTTPStatus.OK, b"ok\n")
    status, body, _ = respond([good, bad])
    assert status == HTTPStatus.SERVICE_UNAVAILABLE
    assert body == b"[-]b failed: it is broken\nreadyz check failed\n"


def test_verbose_lists_every_check_and_exclude_leaves_one_out() -> None:
    good, bad = Check("a", ""), Check("b", "it is broken")
    assert respond([good, bad], "/readyz?verbose").body.startswith(b"[+]a ok\n[-]b failed")
    assert respond([good], "/readyz?verbose").body == b"[+]a ok\nreadyz check passed\n"
    assert respond([good, bad], "/readyz?exclude=b").status == HTTPStatus.OK
