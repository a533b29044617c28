"""rafter-cli, as a user runs it, against real nodes."""

import json
import os
import subprocess

from tests import warm
from tests.cluster.kit import HOST, Cluster
from tests.ports import free_ports

RUN_SECONDS_MAX = 30


def _cli(
    endpoints: str, *arguments: str, data: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    surroundings = {**os.environ, "RAFTERCLI_ENDPOINTS": endpoints, **environment}
    return warm.run(
        "rafter_kv.cli",
        *arguments,
        stdin=data,
        environment=surroundings,
        timeout=RUN_SECONDS_MAX,
    )


def test_values_go_in_and_come_out_unchanged(cluster: Cluster) -> None:
    value = bytes(range(256)) * 40
    assert _cli(cluster.endpoints, "put", "cli:bytes", "-", data=value).returncode == 0
    done = _cli(cluster.endpoints, "get", "cli:bytes")
    assert (done.returncode, done.stdout) == (0, value)
    assert _cli(cluster.endpoints, "del", "cli:bytes").returncode == 0
    assert _cli(cluster.endpoints, "get", "cli:bytes").returncode == 3


def test_incr_and_scan(cluster: Cluster) -> None:
    assert _cli(cluster.endpoints, "incr", "cli:n", "-o", "plain").stdout.strip() == b"1"
    assert _cli(cluster.endpoints, "incr", "cli:n", "41", "-o", "plain").stdout.strip() == b"42"
    done = _cli(cluster.endpoints, "scan", "--match", "cli:n", "--values", "-o", "json")
    assert done.returncode == 0
    assert b"cli:n" in done.stdout
    assert b"42" in done.stdout
    _cli(cluster.endpoints, "del", "cli:n")


def test_conditions_have_an_exit_code_of_their_own(one_node: Cluster) -> None:
    assert _cli(one_node.endpoints, "put", "cli:c", "1", "--xx").returncode == 4
    assert _cli(one_node.endpoints, "put", "cli:c", "1", "--nx").returncode == 0
    assert _cli(one_node.endpoints, "put", "cli:c", "2", "--nx").returncode == 4
    _cli(one_node.endpoints, "del", "cli:c")


def test_the_next_endpoint_is_tried_when_one_is_down(one_node: Cluster) -> None:
    down = f"{HOST}:{free_ports()}"
    done = _cli(f"{down},{one_node.endpoints}", "put", "cli:down", "1")
    assert done.returncode == 0, done.stderr
    assert _cli(down, "get", "cli:down").returncode == 5


def test_status_shows_nodes_shards_groups_and_leaders(three_nodes: Cluster) -> None:
    done = _cli(three_nodes.endpoints, "status", "-o", "json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert [node["id"] for node in status["nodes"]] == [1, 2, 3]
    assert {node["state"] for node in status["nodes"]} == {"up"}
    assert len(status["shards"]) == 5
    assert len(status["groups"]) == 5
    for group in status["groups"]:
        assert group["leader"] in (1, 2, 3)
        assert group["term"] > 0
        assert len(group["replicas"]) == 3
    table = _cli(three_nodes.endpoints, "status").stdout.decode()
    assert "leader" in table.lower()
