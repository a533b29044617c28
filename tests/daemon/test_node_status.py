"""RAFTER.STATUS over a post that the test answers: who is asked, who is missing, who is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rafter_kv.connection import RespConnection
from rafter_kv.reply_slot import ReplySlot
from rafter_transport import Channel, NodeInfo, PayloadError, Registry
from rafter_transport.payload import pack_item, unpack
from rafterd.cluster_map import Phase, Replacement
from rafterd.node_status import GATHERING_MAX, WAIT_SECONDS, StatusGatherer, local_status
from rafterd.shared import Counter, GroupState, GroupWord, ShardState, SharedState
from tests.daemon.shard_kit import make_config
from tests.kv.fake_front_end import FakeFrontEnd


class Post:
    """The `Post` of a gatherer; nodes in `down` have no link."""

    def __init__(self) -> None:
        self.down: set[tuple[int, int]] = set()
        self.posted: list[tuple[int, int, Any]] = []

    def post(self, node: int, shard: int, channel: Channel, item: Any) -> bool:
        assert channel is Channel.ADMIN
        if (node, shard) in self.down:
            return False
        self.posted.append((node, shard, unpack(pack_item(item))))
        return True

    def flush(self) -> None:
        """Nothing is kept back."""


class Bench:
    def __init__(self, directory: Path, nodes: int = 3) -> None:
        self.config = make_config(directory, nodes=nodes, groups=2)
        self.shared = SharedState(1, 2)
        self.post = Post()
        addresses = {n: (a.host, a.port) for n, a in self.config.nodes.items()}
        self.registry = Registry(1, addresses)
        self.timers: list[tuple[float, Callable[[int], None], int]] = []
        self.scheduled = 0
        self.replacements: list[Replacement] = []
        self.gatherer = StatusGatherer(
            self.config, self.shared, self.registry, self.post, self._call_later, self._schedule,
            lambda: self.replacements,
        )  # fmt: skip

    def _call_later(self, seconds: float, callback: Callable[[int], None], number: int) -> None:
        self.timers.append((seconds, callback, number))

    def _schedule(self) -> None:
        self.scheduled += 1

    def request(self) -> ReplySlot:
        slot = ReplySlot(RespConnection(FakeFrontEnd()), 1, 0)
        self.gatherer.request(slot, 0)
        return slot

    def answer(self, node: int, number: int = 1, term: int = 4, leader: int = 1) -> None:
        groups = [[1, leader, term, 9, 8, 10, 3, GroupState.SERVING + 0]]
        shards = [[0, ShardState.SERVING + 0, 5, 6, 2_500_000, 4096]]
        self.gatherer.receive(node, 0, [["status-of", number, "1.2", shards, groups]])

    def expire(self) -> None:
        timers, self.timers = self.timers, []
        for _, callback, number in timers:
            callback(number)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def reply_of(slot: ReplySlot) -> Any:
    assert slot.waiting == 0
    assert isinstance(slot.replies[0], dict)
    return slot.replies[0]


def states(slot: ReplySlot) -> dict[int, bytes]:
    return {node[b"id"]: node[b"state"] for node in reply_of(slot)[b"nodes"]}


def test_shard_0_of_every_other_node_is_asked(bench: Bench) -> None:
    slot = bench.request()
    assert bench.post.posted == [(2, 0, ["status", 1]), (3, 0, ["status", 1])]
    assert bench.scheduled == 1
    assert slot.waiting == 1


def test_the_reply_comes_when_all_have_answered(bench: Bench) -> None:
    slot = bench.request()
    bench.answer(2)
    assert slot.waiting == 1
    bench.answer(3)
    assert states(slot) == {1: b"up", 2: b"up", 3: b"up"}
    (row,) = [row for row in reply_of(slot)[b"shards"] if row[b"node"] == 2]
    assert row == {
        b"node": 2, b"shard": 0, b"state": b"serving", b"clients": 5, b"commands": 6,
        b"cpu_seconds": 2.5, b"memory_bytes": 4096,
    }  # fmt: skip
    bench.expire()
    assert slot.waiting == 0


def test_the_reply_says_who_is_which_and_how_far_a_replacement_has_come(bench: Bench) -> None:
    bench.registry.update([NodeInfo(2, "b", 5, 1, 0xAB, "c", 6)])
    bench.replacements = [
        Replacement(2, 5, Phase.LEAVING, [0, 2]),
        Replacement(3, 6, Phase.JOINING, []),
    ]
    slot = bench.request()
    bench.expire()
    nodes = {node[b"id"]: node for node in reply_of(slot)[b"nodes"]}
    assert nodes[1][b"replacing"] == b""
    assert nodes[2][b"replacing"] == b"leaving, groups left: 0, 2"
    assert nodes[3][b"replacing"] == b"joining, groups left: none"
    assert nodes[2][b"incarnation"] == b"00000000000000ab"
    assert nodes[3][b"incarnation"] == b""
    assert nodes[2][b"address"] == b"b:5"


def test_a_node_that_does_not_answer_in_time_is_unreachable(bench: Bench) -> None:
    slot = bench.request()
    bench.answer(3)
    assert [seconds for seconds, _, _ in bench.timers] == [WAIT_SECONDS]
    bench.expire()
    assert states(slot) == {1: b"up", 2: b"unreachable", 3: b"up"}
    bench.answer(2)  # too late: there is nobody to tell
    assert states(slot)[2] == b"unreachable"


def test_a_node_without_a_link_is_not_waited_for(bench: Bench) -> None:
    bench.post.down = {(2, 0), (3, 0)}
    slot = bench.request()
    assert states(slot) == {1: b"up", 2: b"unreachable", 3: b"unreachable"}
    assert not bench.timers


def test_the_newest_term_says_who_leads(bench: Bench) -> None:
    bench.shared.set_route(1, 1, 5)
    slot = bench.request()
    bench.answer(2, term=7, leader=2)
    bench.answer(3, term=6, leader=3)
    group = reply_of(slot)[b"groups"][0]
    assert (group[b"leader"], group[b"term"]) == (2, 7)
    assert [(r[b"node"], r[b"role"]) for r in group[b"replicas"]] == [
        (1, b"follower"), (2, b"leader"), (3, b"follower"),
    ]  # fmt: skip


def test_a_node_answers_for_itself_out_of_the_shared_words(bench: Bench) -> None:
    bench.shared.set_counter(0, Counter.CLIENTS, 3)
    bench.shared.set_counter(0, Counter.STATE, ShardState.DRAINING)
    bench.shared.set_route(2, 3, 8)
    bench.shared.set_group(2, GroupWord.STATE, GroupState.DAMAGED)
    bench.shared.set_group(2, GroupWord.KEYS, 11)
    version, shards, groups = local_status(bench.config, bench.shared)
    assert isinstance(version, str)
    assert shards == [[0, ShardState.DRAINING, 3, 0, 0, 0]]
    assert groups == [[1, 0, 0, 0, 0, 0, 0, 0], [2, 3, 8, 0, 0, 0, 11, GroupState.DAMAGED]]


def test_a_question_is_answered_to_the_shard_that_asked(bench: Bench) -> None:
    bench.gatherer.receive(2, 5, [["status", 33]])
    ((node, shard, item),) = bench.post.posted
    assert (node, shard, item[:2]) == (2, 5, ["status-of", 33])
    assert item[2:] == local_status(bench.config, bench.shared)


def test_an_answer_waits_for_the_link_that_it_makes_come_up(bench: Bench) -> None:
    """The first RAFTER.STATUS of a shard other than 0 called every other node unreachable."""
    bench.post.down = {(2, 1)}
    bench.gatherer.receive(2, 1, [["status", 7]])
    assert bench.post.posted == []
    bench.post.down = set()
    bench.gatherer.link_changed(2, 1, True)
    bench.gatherer.link_changed(2, 1, True)
    assert [item[:2] for _, _, item in bench.post.posted] == [["status-of", 7]]


def test_unanswered_questions_are_bounded_and_forgotten_with_the_link(bench: Bench) -> None:
    bench.post.down = {(2, 1)}
    for number in range(1, 4 * GATHERING_MAX):
        bench.gatherer.receive(2, 1, [["status", number]])
    assert len(bench.gatherer._unanswered[2, 1]) == GATHERING_MAX
    bench.gatherer.link_changed(2, 1, False)
    bench.post.down = set()
    bench.gatherer.link_changed(2, 1, True)
    assert bench.post.posted == []


SHARD_ROW = [0, 1, 2, 3, 4, 5]
GROUP_ROW = [1, 1, 4, 9, 8, 10, 3, 2]


@pytest.mark.parametrize(
    "item",
    [
        None,
        [],
        ["status"],
        ["status", "1"],
        ["status", True],
        ["status-of", 1],
        ["status-of", 1, "1.0", []],
        ["status-of", 1, b"1.0", [], []],
        ["status-of", 1, "1.0", {}, []],
        ["status-of", 1, "1.0", [SHARD_ROW[:-1]], []],
        ["status-of", 1, "1.0", [[*SHARD_ROW[:-1], "5"]], []],
        ["status-of", 1, "1.0", [SHARD_ROW], [GROUP_ROW[:-1]]],
        ["status-of", 1, "1.0", [SHARD_ROW], [[*GROUP_ROW[:-1], None]]],
        ["status-of", 1, "1.0", [SHARD_ROW], [[*GROUP_ROW[:-1], True]]],
        ["status-of", 1, "1.0", [SHARD_ROW], ["text"]],
    ],
)
def test_a_malformed_item_is_the_peers_error(bench: Bench, item: Any) -> None:
    slot = bench.request()
    with pytest.raises(PayloadError):
        bench.gatherer.receive(2, 0, [item])
    bench.expire()
    assert states(slot)[2] == b"unreachable"


def test_later_versions_may_say_more(bench: Bench) -> None:
    slot = bench.request()
    answer = ["status-of", 1, "9.0", [[*SHARD_ROW, 1]], [[*GROUP_ROW, 1]], "more"]
    bench.gatherer.receive(2, 0, [["greeting", 1], answer])
    bench.answer(3)
    assert states(slot)[2] == b"up"


def test_unknown_groups_and_states_do_no_harm(bench: Bench) -> None:
    slot = bench.request()
    rows = [[99, *GROUP_ROW[1:]], [*GROUP_ROW[:-1], 1234]]
    bench.gatherer.receive(2, 0, [["status-of", 1, "1.0", [[0, 77, 0, 0, 0, 0]], rows]])
    bench.answer(3)
    reply = reply_of(slot)
    assert [group[b"group"] for group in reply[b"groups"]] == [1, 2]
    assert {r[b"node"]: r[b"state"] for r in reply[b"groups"][0][b"replicas"]}[2] == b"unknown"


def test_an_answer_counts_once_and_from_a_node_that_was_asked(bench: Bench) -> None:
    bench.post.down = {(3, 0)}
    slot = bench.request()
    bench.answer(3)
    bench.answer(2, number=99)
    assert slot.waiting == 1
    bench.answer(2)
    assert states(slot) == {1: b"up", 2: b"up", 3: b"unreachable"}
    bench.answer(2)
    assert slot.waiting == 0


def test_too_many_gatherings_are_refused(bench: Bench) -> None:
    slots = [bench.request() for _ in range(GATHERING_MAX)]
    refused = bench.request()
    assert refused.replies == ["-BUSY Too many status requests are under way"]
    assert refused.waiting == 0
    bench.expire()
    assert all(slot.waiting == 0 for slot in slots)
    assert bench.request().waiting == 1


def test_a_node_alone_answers_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, nodes=1)
    assert states(bench.request()) == {1: b"up"}
