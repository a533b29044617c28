"""Acknowledged writes survive: kill -9 of leaders, of whole clusters, of single shards."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.kit import Cluster, running_cluster, wait_for
from tests.cluster.workload import Workload, connect, missing_writes

FAILOVER_SECONDS = 3.0
CHURN_KILLS = 24


def _ports(cluster: Cluster) -> list[int]:
    return [node.client_port for node in cluster]


def test_writes_go_on_within_three_seconds_of_the_leaders_death(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, shards=1, groups=3) as cluster:
        leader = wait_for(lambda: cluster.leader_of(1), "group 1 has a leader")
        survivors = [node.client_port for node in cluster if node.node != leader]
        with Workload(survivors, writers=4) as workload:
            wait_for(lambda: workload.acknowledged_count > 200, "writes are acknowledged")
            cluster[leader].kill()
            killed = time.monotonic()
            client = connect(survivors[0])
            keys = [f"after{number}" for number in range(60)]
            # At once, and enough to fall into every group: what counts is when the groups accept
            # them, not how long a busy machine takes for 60 round trips.
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.set(key, key)
            assert pipeline.execute() == [True] * len(keys)
            elapsed = time.monotonic() - killed
            wait_for(lambda: cluster.leader_of(1) not in (0, leader), "another node leads")
        client.close()
        assert missing_writes(survivors[1], workload.acknowledged()) == []
        assert missing_writes(survivors[0], {key: key for key in keys}) == []
        # A bound the issue promises to users, a multiple of the election timeout; not a benchmark.
        assert elapsed <= FAILOVER_SECONDS, f"{elapsed:.2f} s until every group accepted writes"


def test_nothing_is_missing_after_all_nodes_were_killed(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, shards=2, groups=4) as cluster:
        with Workload(_ports(cluster), writers=6, pipeline=8) as workload:
            wait_for(lambda: workload.acknowledged_count > 1500, "writes are acknowledged")
            for node in cluster:
                node.kill()
        acknowledged = workload.acknowledged()
        cluster.start()
        for port in _ports(cluster):
            assert missing_writes(port, acknowledged) == []


def test_one_node_finds_every_acknowledged_write_after_kill_minus_nine(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 1, shards=2, groups=4) as cluster:
        everything: dict[str, str] = {}
        for _ in range(3):
            with Workload(_ports(cluster), writers=4, pipeline=4) as workload:
                wait_for(lambda: workload.acknowledged_count > 300, "writes are acknowledged")
                cluster[1].kill()
            everything |= workload.acknowledged()
            cluster[1].start()
            cluster[1].wait_ready()
            assert missing_writes(cluster[1].client_port, everything) == []


def test_a_killed_shard_is_restarted_and_loses_nothing(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 1, shards=2, groups=4) as cluster:
        node = cluster[1]
        with Workload(_ports(cluster), writers=4, pipeline=4) as workload:
            wait_for(lambda: workload.acknowledged_count > 300, "writes are acknowledged")
            victim = node.shard_pids()[0]
            os.kill(victim, signal.SIGKILL)
            wait_for(
                lambda: len(node.shard_pids()) == 2 and victim not in node.shard_pids(),
                "the supervisor has restarted the shard",
            )
            node.wait_ready()
            count = workload.acknowledged_count
            wait_for(lambda: workload.acknowledged_count > count + 300, "writes go on")
        assert missing_writes(node.client_port, workload.acknowledged()) == []


def test_sigterm_hands_leadership_over_and_loses_nothing(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, shards=1, groups=3) as cluster:
        leader = wait_for(lambda: cluster.leader_of(2), "group 2 has a leader")
        others = [node.client_port for node in cluster if node.node != leader]
        with Workload(others, writers=4) as workload:
            wait_for(lambda: workload.acknowledged_count > 100, "writes are acknowledged")
            assert cluster[leader].terminate() == 0
            count = workload.acknowledged_count
            wait_for(lambda: workload.acknowledged_count > count + 100, "writes go on")
        assert workload.errors() == {}, "a drained node costs its clients elsewhere no error"
        assert missing_writes(others[0], workload.acknowledged()) == []


@pytest.mark.long
@pytest.mark.timeout(300)
def test_eight_clients_lose_nothing_while_nodes_are_killed_two_dozen_times(tmp_path: Path) -> None:
    generator = random.Random(20261123)
    with running_cluster(tmp_path, 3, shards=1, groups=4) as cluster:
        with Workload(_ports(cluster), writers=8, rest_seconds=0.03) as workload:
            kills = 0
            while kills < CHURN_KILLS:
                wait_for(
                    partial(workload.has_more_than, workload.acknowledged_count + 50),
                    f"writes go on after kill {kills}: {workload.errors()}",
                )
                # Mostly one node; now and then a majority, or all of them at once.
                victims = generator.sample(sorted(cluster.nodes), generator.choice((1, 1, 1, 2, 3)))
                for victim in victims:
                    cluster[victim].kill()
                kills += len(victims)
                for victim in victims:
                    cluster[victim].start()
                for node in cluster:
                    node.wait_ready()
        acknowledged = workload.acknowledged()
        assert len(acknowledged) > 500
        for port in _ports(cluster):
            assert missing_writes(port, acknowledged) == []
