"""What a node refuses before its first fork, and what it answers over HTTP."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest

from rafterd.config import load_config
from rafterd.health import ShardFact
from rafterd.http_server import HttpError, Response, parse_request
from rafterd.node import make_handler
from rafterd.shared import GroupState, GroupWord, SharedState
from tests.daemon.waiting import DEADLINE_SECONDS, free_port_range


class FakeSupervisor:
    """The two facts that a handler asks a supervisor for."""

    is_stopping = False

    def facts(self) -> list[ShardFact]:
        return [ShardFact(0, 1, is_alive=True, is_serving=True, restarts=0)]


Handle = Callable[..., Response]


@pytest.fixture
def handle() -> Handle:
    config = load_config(overrides={"node.shards": "1", "cluster.groups": "1"}).config
    shared = SharedState(1, 1)
    shared.set_group(1, GroupWord.STATE, GroupState.SERVING)
    shared.set_route(1, 1, 1)
    handler = make_handler(config, shared, FakeSupervisor())

    def handle(target: str, accept: str = "") -> Response:
        return handler(parse_request(f"GET {target} HTTP/1.1\r\nAccept: {accept}".encode()))

    return handle


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/livez?verbose"])
def test_health_is_answered(handle: Handle, target: str) -> None:
    assert handle(target).status == HTTPStatus.OK


def test_metrics_are_answered_in_the_format_asked_for(handle: Handle) -> None:
    assert b"rafter_build_info" in handle("/metrics").body
    openmetrics = handle("/metrics", "application/openmetrics-text")
    assert openmetrics.content_type.startswith("application/openmetrics-text")


def test_other_paths_are_not_found(handle: Handle) -> None:
    with pytest.raises(HttpError, match="/livez, /readyz and /metrics"):
        handle("/")


def start(tmp_path: Path, **settings: str) -> tuple[int, str]:
    """Run a node that must be refused; return (exit code, standard error)."""
    base = free_port_range(6)
    overrides = {
        "node.data_dir": str(tmp_path / "data"),
        "node.shards": "1",
        "client.listen": f"127.0.0.1:{base}",
        "peer.listen": f"127.0.0.1:{base + 3}",
        "http.listen": f"127.0.0.1:{base + 5}",
        "log.level": "warning",
    } | {key.replace("__", "."): value for key, value in settings.items()}
    result = subprocess.run(
        [
            sys.executable, "-m", "tests.daemon.supervised_node", "misconfigured_alone",
            *(f"{key}={value}" for key, value in overrides.items()),
        ],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    return result.returncode, result.stderr


def test_the_data_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    start(tmp_path)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"node__id": "2"}, "node_id"),
        ({"cluster__name": "other"}, "cluster_name"),
        ({"cluster__groups": "9"}, "cluster.groups"),
        ({"node__shards": "2"}, "changes of node.shards"),
    ],
)
def test_a_directory_of_another_node_is_refused(
    tmp_path: Path, changed: dict[str, str], named: str
) -> None:
    start(tmp_path)
    status, errors = start(tmp_path, **changed)
    assert status == 1
    assert errors.startswith("rafterd: ")
    assert named in errors


def test_a_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    os.chmod(tmp_path / "data", 0o755)
    status, errors = start(tmp_path)
    assert status == 1
    assert "has mode 0755, expected 0700" in errors
