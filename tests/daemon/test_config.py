import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rafterd.config import ConfigError, load_config, shard_count

THREE_NODES = """\
[node]
id = 1
data_dir = "data/n1"
shards = 2                      # 0 = one per CPU core
[client]
listen = "127.0.0.1:7379"       # all shards; shard i alone also on port + 1 + i
[peer]
listen = "127.0.0.1:17379"      # shard i on port + i
[http]
listen = "127.0.0.1:9379"       # /livez /readyz /metrics
[cluster]
name = "demo"
groups = 8
replication = 3
initial = ["1@127.0.0.1:17379", "2@127.0.0.1:17479", "3@127.0.0.1:17579"]
"""


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "rafterd.toml"
        path.write_text(text)
        return path

    return write


def problems_of(
    path: Path | None = None,
    environment: dict[str, str] | None = None,
    overrides: dict[str, str] | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment=environment, overrides=overrides)
    return caught.value.problems


def test_without_any_source_the_embedded_default_runs_one_node() -> None:
    config = load_config().config
    assert (config.node.id, config.node.data_dir) == (1, "data/rafterd")
    assert config.node.shards == len(os.sched_getaffinity(0))
    assert config.client.listen == "127.0.0.1:7379"
    assert config.peer.listen == "127.0.0.1:17379"
    assert config.http.listen == "127.0.0.1:9379"
    assert (config.cluster.groups, config.cluster.replication) == (8, 1)


def test_the_documented_file_is_a_complete_node_of_three(write: Write) -> None:
    config = load_config(write(THREE_NODES)).config
    assert config.node.shards == 2
    assert list(config.nodes) == [1, 2, 3]
    assert config.nodes[2].port == 17479
    assert config.members(1) == (2, 3, 1)


def test_replication_defaults_to_three_or_to_all_of_fewer_nodes() -> None:
    def replication(*nodes: int) -> int:
        initial = ",".join(f"{n}@127.0.0.1:{20000 + 100 * n}" for n in nodes)
        overrides = {"cluster.initial": initial, "peer.listen": "127.0.0.1:20100"}
        return load_config(overrides=overrides).config.cluster.replication

    assert [replication(1), replication(1, 2), replication(1, 2, 3)] == [1, 2, 3]
    assert replication(1, 2, 3, 4, 5) == 3


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(write: Write) -> None:
    path = write("[node]\nid = 2\n")
    environment = {"RAFTERD_NODE__ID": "3"}
    assert load_config(path).config.node.id == 2
    assert load_config(path, environment=environment).config.node.id == 3
    overrides = {"node.id": "4"}
    loaded = load_config(path, environment=environment, overrides=overrides)
    assert loaded.config.node.id == 4
    assert loaded.origins["node.id"] == "command line"


def test_text_of_the_environment_is_read_as_the_keys_type() -> None:
    environment = {
        "RAFTERD_PEER__INSECURE": "true",
        "RAFTERD_NODE__DRAIN_SECONDS": "2.5",
        "RAFTERD_CLUSTER__INITIAL": "1@127.0.0.1:17379, 2@127.0.0.1:17479",
        "RAFTERD_CLUSTER__NAME": "12",
    }
    config = load_config(environment=environment).config
    assert config.peer.insecure is True
    assert config.node.drain_seconds == 2.5
    assert config.cluster.initial == ["1@127.0.0.1:17379", "2@127.0.0.1:17479"]
    assert config.cluster.name == "12"


def test_variables_of_other_programs_are_left_alone() -> None:
    environment = {"RAFTERD_CONFIG": "x", "RAFTER_NODE__ID": "9", "NODE__ID": "9"}
    assert load_config(environment=environment).origins == {}


def test_all_wrong_keys_are_reported_at_once_with_their_lines(write: Write) -> None:
    path = write(
        '[node]\nid = "x"\nshards = 65\nfoo = 1\n[cleint]\nlisten = 1\n'
        '[log]\nlevel = "loud"\n[cluster]\nname = "a b"\ninitial = [3]\n'
    )
    assert problems_of(path) == [
        f"{path}:5: [cleint]: unknown section; did you mean [client]?",
        f'{path}:2: node.id: found "x"; allowed: an integer from 1 to 65535',
        f"{path}:3: node.shards: found 65; allowed: an integer from 0 to 64",
        (
            f"{path}:4: node.foo: unknown key; known: id, data_dir, shards, shard_links, "
            "drain_seconds, watchdog_seconds, start_seconds_max"
        ),
        f'{path}:8: log.level: found "loud"; allowed: "debug" or "error" or "info" or "warning"',
        (
            f'{path}:10: cluster.name: found "a b"; '
            "allowed: a string of the form ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
        ),
        (
            f"{path}:11: cluster.initial: found [3]; "
            "allowed: a list of at most 256 items, each a string"
        ),
    ]


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("[node]\nid = true", "found True; allowed: an integer"),
        ("[node]\nid = 1.0", "found 1.0; allowed: an integer"),
        ("[node]\nid = 0", "found 0; allowed: an integer from 1 to 65535"),
        ("[node]\nid = 99999999999999999999999", "allowed: an integer from 1 to 65535"),
        ("[node]\ndrain_seconds = nan", "allowed: a number from 0 to 3600"),
        ("[node]\ndrain_seconds = -1", "allowed: a number from 0 to 3600"),
        ('[node]\ndata_dir = ""', "allowed: a string of 1 to 1024 characters"),
        ("[cluster]\ngroups = 16384", "allowed: an integer from 1 to 16383"),
        ("[peer]\ninsecure = 1", "allowed: true or false"),
        ("[client]\nlisten = 7379", "allowed: a string"),
        ('[client]\nlisten = "7379"', "the port is missing; allowed: host:port"),
        ("[client]\nlisen = 1", "did you mean client.listen?"),
        ("node = 3", "node: found 3; allowed: a section"),
        ("[[node]]\nid = 1", "allowed: a section"),
    ],
)
def test_an_impossible_value_says_what_is_allowed(write: Write, toml: str, complaint: str) -> None:
    (problem,) = problems_of(write(toml + "\n"))
    assert complaint in problem


@pytest.mark.parametrize(
    "toml", ["[node", "id = 1\nid = 2", "a = " + "[" * 100_000, "\x00", "[node]\n[node]"]
)
def test_what_is_not_toml_is_refused_with_the_place(write: Write, toml: str) -> None:
    (problem,) = problems_of(write(toml))
    assert "is not valid TOML" in problem


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none.toml") == [
        f"{tmp_path}/none.toml: cannot be read: No such file or directory"
    ]
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "is not valid TOML" in problems_of(tmp_path / "binary")[0]
    (tmp_path / "huge").write_bytes(b"#" * ((1 << 20) + 1))
    assert "not a configuration" in problems_of(tmp_path / "huge")[0]


def test_wrong_variables_and_flags_are_named() -> None:
    environment = {"RAFTERD_NODE__ID": "x", "RAFTERD_NOED__ID": "1", "RAFTERD_NODE__IDD": "1"}
    found = problems_of(environment=environment, overrides={"a.b": "1", "node.shards": ""})
    assert found == [
        "environment RAFTERD_NOED__ID: unknown section 'noed'; did you mean [node]?",
        'environment RAFTERD_NODE__ID: node.id: found "x"; allowed: an integer from 1 to 65535',
        "environment RAFTERD_NODE__IDD: node.idd: unknown key; did you mean node.id?",
        (
            "command line: a.b: unknown section; known: node, client, peer, http, cluster, raft, "
            "storage, snapshot, log"
        ),
        'command line: node.shards: found ""; allowed: an integer from 0 to 64',
    ]


def test_a_problem_between_keys_names_the_place_of_the_key(write: Write) -> None:
    path = write("[raft]\nheartbeat_ticks = 6\n")
    (problem,) = problems_of(path)
    assert problem == (
        f"{path} (default): raft.election_timeout_ticks: found 12; "
        "allowed: more than twice raft.heartbeat_ticks, so at least 13"
    )


def test_long_values_are_cut_in_messages(write: Write) -> None:
    (problem,) = problems_of(write(f'[log]\nlevel = "{"x" * 5000}"\n'))
    assert len(problem) < 400
    assert re.search(r"x…;", problem)


def test_zero_shards_are_one_for_each_core() -> None:
    assert shard_count(0) == len(os.sched_getaffinity(0))
    assert shard_count(3) == 3
