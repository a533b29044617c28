import re
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from rafterd.config import load_config
from rafterd.health import ShardFact
from rafterd.metrics import (
    COUNTERS,
    GAUGES,
    GROUP_GAUGES,
    PEER_COUNTERS,
    PEER_GAUGES,
    Exposition,
    NodeCollector,
)
from rafterd.shared import Counter, GroupState, GroupWord, PeerWord, SharedState

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def shared() -> SharedState:
    shared = SharedState(2, 3, (1, 2))
    for shard in range(2):
        for node in (1, 2):
            words = shared.peer_words(shard, node)
            assert words is not None
            for place in PeerWord:
                words[place] = 1000 * shard + 100 * node + place
    for shard in range(2):
        for counter in Counter:
            shared.set_counter(shard, counter, 1_000_000 * (shard + 1) + counter)
    for group in range(4):
        for word in GroupWord:
            shared.set_group(group, word, 100 * group + word)
        shared.set_group(group, GroupWord.STATE, GroupState.SERVING)
        shared.set_route(group, max(group - 1, 0), 7)
    return shared


@pytest.fixture
def exposition(shared: SharedState) -> Exposition:
    overrides = {"node.shards": "2", "cluster.groups": "3"}
    config = load_config(overrides=overrides).config
    facts = [ShardFact(0, 10, True, True, 0), ShardFact(1, 11, True, False, 4)]
    return Exposition(NodeCollector(config, shared, lambda: facts))


def samples(
    exposition: Exposition, accept: str = "", parse: Callable[[str], Iterable[Metric]] = parse_text
) -> dict[tuple[str, ...], float]:
    body, _content_type = exposition.render(accept)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }


def test_counters_carry_the_words_of_each_shard(
    exposition: Exposition, shared: SharedState
) -> None:
    found = samples(exposition)
    for metric in COUNTERS:
        for shard in range(2):
            expected = shared.get(shard, metric.counter) * metric.scale
            assert found[f"{metric.name}_total", str(shard)] == pytest.approx(expected)
    for metric in GAUGES:
        assert found[metric.name, "1"] == pytest.approx(
            shared.get(1, metric.counter) * metric.scale
        )


def test_links_carry_the_words_of_each_shard_and_node(exposition: Exposition) -> None:
    found = samples(exposition)
    for metric in PEER_COUNTERS:
        assert found[f"{metric.name}_total", "2", "1"] == 1200 + metric.word
    for metric in PEER_GAUGES:
        expected = (100 + metric.word) * metric.scale
        assert found[metric.name, "1", "0"] == pytest.approx(expected)


def test_groups_carry_their_words_and_who_leads(exposition: Exposition) -> None:
    found = samples(exposition)
    assert [found["rafter_raft_has_leader", str(g)] for g in range(4)] == [0, 0, 1, 1]
    assert [found["rafter_raft_is_leader", str(g)] for g in range(4)] == [0, 0, 1, 0]
    assert found["rafter_raft_term", "0"] == GroupWord.TERM, "the system group's too"
    assert found["rafter_raft_commit_index", "3"] == 300 + GroupWord.COMMIT
    assert found["rafter_keys", "2"] == 200 + GroupWord.KEYS
    assert found["rafter_raft_state", "1"] == GroupState.SERVING


def test_syncs_are_a_summary_in_seconds(exposition: Exposition, shared: SharedState) -> None:
    found = samples(exposition)
    name = "rafter_wal_fsync_duration_seconds"
    assert found[f"{name}_count", "0"] == shared.get(0, Counter.WAL_SYNCS_TOTAL)
    assert found[f"{name}_sum", "0"] == pytest.approx(1.000014)


def test_the_supervisors_own_facts_are_there(exposition: Exposition) -> None:
    found = samples(exposition)
    assert found["rafter_shard_restarts_total", "1"] == 4
    assert [found["rafter_shard_serving", shard] for shard in "01"] == [1, 0]
    assert found["rafter_node_info", "rafter", "1"] == 1


def test_the_format_is_negotiated(exposition: Exposition) -> None:
    assert exposition.render("")[1].startswith("text/plain")
    assert exposition.render(OPENMETRICS)[1].startswith("application/openmetrics-text")
    assert exposition.render(OPENMETRICS)[0].endswith(b"# EOF\n")
    assert samples(exposition, OPENMETRICS, parse_openmetrics) == samples(exposition)


def test_names_follow_the_conventions() -> None:
    names = [metric.name for metric in (*COUNTERS, *GAUGES, *GROUP_GAUGES)]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"rafter_[a-z_]+[a-z]", name)
        assert not name.endswith(("_total", "_microseconds", "_milliseconds"))


def test_every_word_of_a_shard_that_counts_is_exported() -> None:
    exported = {metric.counter for metric in (*COUNTERS, *GAUGES)}
    summary = {Counter.WAL_SYNCS_TOTAL, Counter.WAL_SYNC_MICROSECONDS_TOTAL}
    internal = {Counter.HEARTBEAT, Counter.PID, Counter.STATE}
    assert exported | summary | internal == set(Counter)
