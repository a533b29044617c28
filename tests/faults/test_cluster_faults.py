"""Whole clusters behind faulty networks."""

import random
from functools import partial
from pathlib import Path

import redis

from tests.cluster.kit import wait_for
from tests.cluster.workload import Workload, connect, missing_writes
from tests.faults.cluster import cluster_behind_proxies
from tests.faults.proxy import CUT, Faults


def reads_all(port: int, acknowledged: dict[str, str]) -> bool:
    """Whether a node answers, and has every write; not answering is no failure."""
    try:
        return missing_writes(port, acknowledged) == []
    except redis.RedisError:
        return False


def test_doubled_and_swapped_frames_count_nothing_twice_and_lose_nothing(tmp_path: Path) -> None:
    with cluster_behind_proxies(tmp_path, shards=2, groups=4) as (cluster, network):
        for proxy in network:
            proxy.set(there=Faults(doubled=0.2, swapped=0.2))
        clients = [connect(node.client_port) for node in cluster]
        for value in range(1, 61):
            # Most of these go on to another node, in frames that come twice.
            for number, client in enumerate(clients):
                assert client.incr(f"counter{number}") == value
        for client in clients:
            client.close()
        with Workload([node.client_port for node in cluster], writers=4, pipeline=4) as workload:
            wait_for(lambda: workload.acknowledged_count > 500, "writes are acknowledged")
        assert sum(proxy.counts["frames_doubled"] for proxy in network) > 50
        assert sum(proxy.counts["frames_swapped"] for proxy in network) > 10
        assert workload.errors() == {}
        for node in cluster:
            assert missing_writes(node.client_port, workload.acknowledged()) == []


def test_writes_go_on_and_none_is_lost_while_connections_are_reset(tmp_path: Path) -> None:
    generator = random.Random(11)
    with cluster_behind_proxies(tmp_path) as (cluster, network):
        proxies = list(network)
        with Workload([node.client_port for node in cluster], writers=4) as workload:
            for _ in range(15):
                count = workload.acknowledged_count
                generator.choice(proxies).reset()
                wait_for(partial(workload.has_more_than, count + 10), "writes go on")
        for node in cluster:
            assert missing_writes(node.client_port, workload.acknowledged()) == []


def test_a_leader_that_is_cut_off_is_replaced_and_comes_back(tmp_path: Path) -> None:
    with cluster_behind_proxies(tmp_path) as (cluster, network):
        leader = wait_for(lambda: cluster.leader_of(1), "group 1 has a leader")
        others = [node for node in cluster if node.node != leader]
        with Workload([node.client_port for node in others], writers=4) as workload:
            wait_for(lambda: workload.acknowledged_count > 50, "writes are acknowledged")
            for proxy in network.to[leader]:
                proxy.set(there=CUT, back=CUT)
            for node in others:
                for proxy in network.to[node.node]:
                    proxy.set(there=CUT, back=CUT, node=leader)
            count = workload.acknowledged_count
            wait_for(lambda: workload.has_more_than(count + 300), "the others go on")
        for proxy in network:
            # What was cut stays cut, and no kernel knows: the nodes have to find out.
            proxy.heal()
        port, acknowledged = cluster[leader].client_port, workload.acknowledged()
        wait_for(lambda: reads_all(port, acknowledged), "the old leader is back")
