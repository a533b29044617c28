"""What a node refuses before its first fork, and what it answers over HTTP."""

import json
import logging
import os
import socket
import stat
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest

from rafter_core.entries import HardState
from rafter_storage.resharding import Progress
from rafter_storage.segment_manager import GroupWrite, SegmentManager
from rafterd.config import load_config
from rafterd.health import ShardFact
from rafterd.http_server import HttpError, Response, parse_request
from rafterd.node import PROGRESS_SECONDS, ProgressReporter, make_handler
from rafterd.notify import Notifier
from rafterd.shared import GroupState, GroupWord, SharedState
from tests import warm
from tests.daemon.supervised_node import SEGMENT_BYTES
from tests.daemon.waiting import DEADLINE_SECONDS
from tests.ports import free_ports


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
    base = free_ports(10)
    overrides = {
        "node.data_dir": str(tmp_path / "data"),
        "node.shards": "1",
        "client.listen": f"127.0.0.1:{base}",
        "peer.listen": f"127.0.0.1:{base + 4}",
        "http.listen": f"127.0.0.1:{base + 9}",
        "log.level": "warning",
    } | {key.replace("__", "."): value for key, value in settings.items()}
    options = (f"{key}={value}" for key, value in overrides.items())
    result = warm.run(
        "tests.daemon.supervised_node", "misconfigured_alone", *options, timeout=DEADLINE_SECONDS
    )
    return result.returncode, result.stderr.decode()


def test_the_data_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    start(tmp_path)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"node__id": "2"}, "node_id"),
        ({"cluster__name": "other"}, "cluster_name"),
        ({"cluster__groups": "9"}, "cluster.groups"),
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


def open_log(tmp_path: Path, layout: int, shard: int) -> SegmentManager:
    directory = tmp_path / f"data/shards-{layout:05d}/{shard:05d}"
    manager = SegmentManager(directory, segment_bytes=SEGMENT_BYTES)
    manager.open()
    return manager


def vote(tmp_path: Path, group: int, shard: int) -> None:
    """Leave a vote of a group in the log of the first layout."""
    manager = open_log(tmp_path, 1, shard)
    job = manager.begin([GroupWrite(group, HardState(3, 1, 0))])
    job.run()
    manager.complete(job)
    manager.close()


def test_node_shards_may_change_between_starts(tmp_path: Path) -> None:
    start(tmp_path)
    vote(tmp_path, 5, 0)
    _, errors = start(tmp_path, node__shards="3", log__level="info", log__format="json")
    told = [json.loads(line) for line in errors.splitlines()]
    (progress,) = [line for line in told if line["event"].endswith("groups are copied")]
    assert (progress["groups_done"], progress["groups_total"]) == (1, 1)
    (done,) = [line for line in told if line["event"] == "node.shards has changed"]
    assert (done["before"], done["now"]) == (1, 3)
    assert [path.name for path in (tmp_path / "data").glob("shards-*")] == ["shards-00002"]
    manager = open_log(tmp_path, 2, 5 % 3)
    assert manager.groups() == [5]
    manager.close()


def test_a_damaged_log_keeps_its_number_of_shards_and_the_operator_is_told(tmp_path: Path) -> None:
    start(tmp_path)
    vote(tmp_path, 5, 0)
    (segment,) = (tmp_path / "data/shards-00001/00000/wal").glob("*.log")
    content = segment.read_bytes()
    segment.write_bytes(b"#" + content[1:])
    status, errors = start(tmp_path, node__shards="2")
    assert status == 1
    assert f"rafterd: node.shards cannot change from 1 to 2: {segment}" in errors
    assert "rafterd: nothing was changed; node.shards = 1 starts the node as before\n" in errors


@pytest.mark.parametrize("shards", ["1", "2"])
def test_a_node_whose_log_was_emptied_is_refused_and_not_taken_for_a_new_one(
    tmp_path: Path, shards: str
) -> None:
    start(tmp_path)
    vote(tmp_path, 5, 0)
    wal = tmp_path / "data/shards-00001/00000/wal"
    for path in wal.iterdir():
        path.unlink()
    status, errors = start(tmp_path, node__shards=shards)
    assert status == 1
    assert errors.startswith(f"rafterd: {wal}: the log has no segment left")
    assert "restore them, or move the data directory away" in errors
    assert not list(wal.iterdir())


def test_a_first_start_says_nothing_of_a_change_of_shards(tmp_path: Path) -> None:
    _, errors = start(tmp_path, node__shards="2", log__level="info")
    assert "shard started" in errors
    assert "changes" not in errors
    assert "changed" not in errors
    for shard in range(2):
        manager = open_log(tmp_path, 1, shard)
        assert manager.groups() == []
        manager.close()


def test_a_data_directory_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    start(tmp_path)
    assert (tmp_path / "elsewhere/identity").exists()


def test_progress_is_told_now_and_then_and_the_manager_asked_for_patience(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        now_seconds = [100.0]
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        report = ProgressReporter(notifier, lambda: now_seconds[0])
        with caplog.at_level(logging.INFO):
            for number in range(5):
                report(Progress(number, 5, 10, 50))
                now_seconds[0] += PROGRESS_SECONDS / 2
        assert [record.__dict__["groups_done"] for record in caplog.records] == [0, 2, 4]
        for _ in range(3):
            assert manager.recv(100) == b"EXTEND_TIMEOUT_USEC=60000000"
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_a_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    os.chmod(tmp_path / "data", 0o755)
    status, errors = start(tmp_path)
    assert status == 1
    assert "has mode 0755, expected 0700" in errors
