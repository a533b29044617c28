"""Tests of rafterd.shard_parts."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_transport.handshake import VERSION_MAX, validate_hello
from rafterd.boot import ShardBoot
from rafterd.config import Config
from rafterd.shard_parts import ITEMS_VERSION, core_config, link_limits, make_hello, open_log
from tests.daemon.shard_kit import INCARNATION, make_boot, make_config


@contextlib.contextmanager
def booted(config: Config) -> Iterator[ShardBoot]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        yield make_boot(config, ends[0])
    finally:
        for end in ends:
            end.close()


def test_a_hello_says_which_data_directory_speaks(tmp_path: Path) -> None:
    config = make_config(tmp_path, nodes=3, shards=2)
    with booted(config) as boot:
        hello = make_hello(boot)
    validate_hello(hello)
    assert (hello.node_id, hello.shard, hello.shards) == (1, 0, 2)
    # An older peer's links would work, and what is said over them be taken for nonsense.
    assert (hello.version_min, hello.version_max) == (ITEMS_VERSION, VERSION_MAX)
    assert (hello.cluster_id, hello.incarnation) == (config.cluster_id, INCARNATION)
    assert (hello.client_host, hello.client_port) == ("127.0.0.1", config.client.port)


def test_the_limits_of_links_are_the_operators(tmp_path: Path) -> None:
    config = make_config(tmp_path, peer__connections_max=7, peer__reconnect_seconds_max=0.5)
    limits = link_limits(config)
    limits.validate()
    assert (limits.connections_max, limits.reconnect_cap_seconds) == (7, 0.5)
    assert limits.frame_bytes_max == config.peer.frame_bytes_max
    assert limits.pending_bytes_max == config.peer.pending_bytes_max
    assert limits.node_bytes_max == config.peer.node_bytes_max
    assert limits.idle_seconds == config.peer.idle_seconds


def test_a_replica_begins_behind_its_snapshot(tmp_path: Path) -> None:
    core = core_config(make_config(tmp_path, raft__election_timeout_ticks=20), 41)
    core.validate()
    assert (core.node_id, core.applied, core.election_timeout_ticks) == (1, 41, 20)
    assert not core.forward_proposals, "routers know the leaders"


def test_the_log_that_is_opened_is_that_of_the_layout(tmp_path: Path) -> None:
    with booted(make_config(tmp_path)) as boot:
        log = open_log(boot, REAL_FILE_SYSTEM)
        assert log.groups() == []
        assert log.statistics().segments == 1
        log.close()
