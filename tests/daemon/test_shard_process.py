import os
import random
import signal
import socket
from pathlib import Path

import pytest

from rafter_storage.identity import Identity
from rafterd.boot import ShardBoot
from rafterd.config import load_config
from rafterd.control import send_control
from rafterd.node_tls import NodeTls
from rafterd.shard_process import (
    FATAL_COUNT_MAX,
    FATAL_WINDOW_SECONDS,
    RESTART_CAP_SECONDS,
    STEADY_SECONDS,
    ShardProcess,
    fork_shard,
)
from rafterd.shared import Counter, SharedState
from tests.daemon.control_ends import Ends, receive


def make_shard() -> ShardProcess:
    return ShardProcess(0, random.Random(7))


def test_the_delay_before_a_restart_grows_to_its_cap_and_stays_random() -> None:
    shard = make_shard()
    delays = [shard.died(1, 0.0) for _ in range(400)]
    assert all(0 <= delay <= RESTART_CAP_SECONDS for delay in delays)
    assert delays[0] <= 0.1
    assert len(set(delays[10:])) > 300
    assert max(delays[10:]) > 0.9 * RESTART_CAP_SECONDS


def test_a_shard_that_served_long_starts_its_backoff_anew(
    ends: Ends,
) -> None:
    shard = make_shard()
    for _ in range(50):
        shard.died(1, 0.0)
    shard.started(4, ends[0], 100.0)
    shard.serving(100.0)
    shard.control = None  # closed by the supervisor before it tells of the death
    assert shard.died(1, 100.0 + STEADY_SECONDS) <= 0.1


def test_giving_up_too_often_within_the_window_is_hopeless() -> None:
    shard = make_shard()
    assert [shard.fatal(float(at)) for at in range(FATAL_COUNT_MAX)] == [
        *[False] * (FATAL_COUNT_MAX - 1),
        True,
    ]
    shard = make_shard()
    step = FATAL_WINDOW_SECONDS / (FATAL_COUNT_MAX - 1) + 0.1
    assert not any(shard.fatal(step * at) for at in range(20))


def test_silence_is_measured_from_the_last_change_of_the_heartbeat(ends: Ends) -> None:
    shared, shard = SharedState(1, 1), make_shard()
    shard.started(4, ends[0], 10.0)
    shared.add(0, Counter.HEARTBEAT)
    shard.watch(shared, 12.0)
    shard.watch(shared, 15.0)
    assert shard.silent_seconds(16.0) == 4.0


def test_a_newer_link_replaces_one_that_was_not_sent(
    ends: Ends,
) -> None:
    shard = make_shard()
    shard.started(4, ends[0], 0.0)
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, _theirs in pairs:
        shard.queue_link(1, ours)
    assert pairs[0][0].fileno() == -1
    shard.queue_log_level("info")
    shard.queue_log_level("debug")
    shard.flush()
    assert not shard.has_unsent
    link = receive(ends[1])
    os.write(link.descriptors[0], b"newer")
    assert pairs[1][1].recv(10) == b"newer"
    os.close(link.descriptors[0])
    assert receive(ends[1])[:2] == ("log", ["debug"])
    for _ours, theirs in pairs:
        theirs.close()


def test_to_read_the_tls_files_again_is_told_once(ends: Ends) -> None:
    shard = make_shard()
    shard.started(4, ends[0], 0.0)
    shard.queue_tls()
    shard.queue_tls()
    assert shard.has_unsent
    shard.flush()
    assert not shard.has_unsent
    assert receive(ends[1]) == ("tls", [], [])
    with pytest.raises(BlockingIOError):
        receive(ends[1])


def test_messages_wait_while_the_shard_does_not_read(
    ends: Ends,
) -> None:
    shard = make_shard()
    shard.started(4, ends[0], 0.0)
    is_full = False
    while not is_full:
        try:
            send_control(ends[0], "noise")
        except BlockingIOError:
            is_full = True
    shard.queue_log_level("debug")
    shard.queue_tls()
    shard.flush()
    assert shard.has_unsent
    while receive(ends[1]).name == "noise":
        shard.flush()
    assert not shard.has_unsent
    assert receive(ends[1]).name == "tls"


def test_messages_to_a_dead_shard_are_dropped(ends: Ends) -> None:
    shard = make_shard()
    shard.started(4, ends[0], 0.0)
    ours, theirs = socket.socketpair()
    ends[1].close()
    shard.queue_link(1, ours)
    shard.queue_tls()
    shard.flush()
    assert not shard.has_unsent
    assert theirs.recv(1) == b""
    theirs.close()


@pytest.fixture
def boot(ends: Ends) -> ShardBoot:
    config = load_config(overrides={"node.shards": "1"}).config
    identity = Identity(1, "rafter", 1, 2, 8, 1, 1, 1)
    return ShardBoot(config, identity, 0, SharedState(1, 8), ends[0], {}, NodeTls(config))


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_result_of_the_shard_is_the_exit_code_of_its_process(boot: ShardBoot) -> None:
    assert exit_code(fork_shard(boot, lambda _boot: 7, lambda: None)) == 7


@pytest.mark.parametrize("error", [RuntimeError("bug"), SystemExit(0), KeyboardInterrupt()])
def test_no_exception_leaves_the_child(
    error: BaseException, boot: ShardBoot, capfd: pytest.CaptureFixture[str]
) -> None:
    def run_shard(_boot: ShardBoot) -> int:
        raise error

    assert exit_code(fork_shard(boot, run_shard, lambda: None)) == 1
    assert "the shard failed" in capfd.readouterr().err


def test_the_child_starts_with_its_own_signals_and_name(boot: ShardBoot) -> None:
    def run_shard(_boot: ShardBoot) -> int:
        is_right = (
            signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            and not signal.pthread_sigmask(signal.SIG_BLOCK, ())
            and Path("/proc/self/comm").read_text(encoding="ascii") == "rafterd-shard0\n"
        )
        return 0 if is_right else 1

    old = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        assert exit_code(fork_shard(boot, run_shard, lambda: None)) == 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    finally:
        signal.signal(signal.SIGTERM, old)
