"""A shard as a process: forked as the supervisor forks it, stopped, killed, drained, broken."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rafter_core import Membership
from rafter_kv.slots import group_by_slot, slot_of
from rafter_storage.segment_manager import SegmentManager
from rafterd import shard as shard_module
from rafterd.boot import ShardBoot
from rafterd.control import send_control
from rafterd.shard import ShardMain, run_shard
from rafterd.shard_services import ShardServices
from rafterd.shared import Counter, GroupState, GroupWord, ShardState, SharedState
from tests.daemon.engine_bench import turns
from tests.daemon.shard_kit import ForkedShard, make_config, segment_of
from tests.daemon.waiting import DEADLINE_SECONDS, wait_until
from tests.kv.tls_kit import client_tls
from tests.transport.support import HOST
from tests.transport.tls_support import Authority

StartShard = Callable[..., ForkedShard]
TICKS_WORD = 63
"""A word of the shard that nothing else uses: the tests count ticks in it."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartShard]:
    shards: list[ForkedShard] = []

    def start_shard(*, config: Any = None, groups: int = 2, **options: Any) -> ForkedShard:
        shard = ForkedShard(config or make_config(tmp_path, groups=groups), **options)
        shards.append(shard)
        return shard

    yield start_shard
    for shard in shards:
        shard.close()


class CountingServices(ShardServices):
    """The services of a shard, which count their ticks."""

    def tick(self) -> None:
        self._counters[TICKS_WORD] += 1
        super().tick()


def run_counting(boot: ShardBoot) -> int:
    shard_module.ShardServices = CountingServices  # type: ignore[attr-defined]  # in a child
    return run_shard(boot)


class FailingServices(ShardServices):
    """Services with a bug in a callback of the loop."""

    def publish(self) -> None:
        if self._counters[Counter.STATE] == ShardState.SERVING:
            self._loop.call_soon(self._fail)

    def _fail(self) -> None:
        raise RuntimeError("a bug in a callback")


def run_failing(boot: ShardBoot) -> int:
    shard_module.ShardServices = FailingServices  # type: ignore[attr-defined]  # in a child
    return run_shard(boot)


class OutOfResources(ShardServices):
    """Services whose tick meets an error of the operating system."""

    def expire_due_keys(self) -> None:
        if self._counters[Counter.STATE] == ShardState.SERVING:
            raise OSError(24, "Too many open files")


def run_out_of_resources(boot: ShardBoot) -> int:
    shard_module.ShardServices = OutOfResources  # type: ignore[attr-defined]  # in a child
    return run_shard(boot)


class FailingAtATick(ShardMain):
    """A shard with ticks between a start that fails and the callback that ends it."""

    def _started(self, task: asyncio.Task[None]) -> None:
        self._tick()
        self._loop.call_later(0.05, super()._started, task)


def run_failing_at_a_tick(boot: ShardBoot) -> int:
    shard_module.ShardMain = FailingAtATick  # type: ignore[misc]  # in a child
    return run_shard(boot)


class TerminatedWhileOpening(ShardServices):
    """Services whose shard is told to stop while its listeners are being opened."""

    async def open_client_listeners(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while self._counters[Counter.STATE] != ShardState.DRAINING:
            await turns(1)
        await super().open_client_listeners()


def run_terminated_while_opening(boot: ShardBoot) -> int:
    shard_module.ShardServices = TerminatedWhileOpening  # type: ignore[attr-defined]  # in a child
    return run_shard(boot)


def committed(shard: ForkedShard, group: int) -> int:
    """Return the commit index in the log of a shard that has ended."""
    store = SegmentManager(segment_of(shard.config).parents[1])
    store.open()
    commit = store.group_log(group, Membership((1,))).initial_state()[0].commit
    store.close()
    return commit


def pass_time(seconds: float) -> None:
    """Wait for the clock: what is tested is what the passing of time itself does."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end)


# ---- serving ---------------------------------------------------------------------------------


def test_a_shard_says_that_it_serves_once_its_listeners_accept(start: StartShard) -> None:
    shard = start()
    shard.wait_serving()
    client = shard.client()
    assert client.ask(b"SET", b"k", b"v") == b"+OK"
    assert client.ask(b"GET", b"k") == b"v"
    assert shard.get(Counter.PID) == shard.pid
    assert shard.get(Counter.STATE) == ShardState.SERVING
    assert shard.shared.get_group(1, GroupWord.STATE) == GroupState.SERVING


def test_the_heartbeat_goes_on_and_the_process_is_measured(start: StartShard) -> None:
    shard = start()
    shard.wait_serving()
    first = shard.get(Counter.HEARTBEAT)
    wait_until(lambda: shard.get(Counter.HEARTBEAT) >= first + 3)
    assert shard.get(Counter.MEMORY_BYTES) > 1 << 20
    assert shard.get(Counter.CPU_MICROSECONDS_TOTAL) > 0


def test_what_was_acknowledged_is_there_when_a_killed_shard_serves_again(
    start: StartShard,
) -> None:
    """The log is replayed before the client listeners open: the first read sees everything."""
    shard = start()
    shard.wait_serving()
    client = shard.client()
    for number in range(100):
        assert client.ask(b"SET", b"k%d" % number, b"v%d" % number) == b"+OK"
    shard.kill()
    assert shard.wait() == -signal.SIGKILL
    commits = {group: committed(shard, group) for group in (1, 2)}
    again = start(config=shard.config)
    again.wait_serving()
    applied = {group: again.shared.get_group(group, GroupWord.APPLIED) for group in (1, 2)}
    assert all(applied[group] >= commits[group] > 10 for group in (1, 2))
    client = again.client()
    for number in range(100):
        assert client.ask(b"GET", b"k%d" % number) == b"v%d" % number


def test_a_shard_with_a_damaged_group_serves_its_others(
    start: StartShard, capfd: pytest.CaptureFixture[str]
) -> None:
    config_groups = group_by_slot(2)
    keys = {config_groups[slot_of(key)]: key for key in (b"k%d" % n for n in range(64))}
    shard = start()
    shard.wait_serving()
    client = shard.client()
    for group, key in keys.items():
        assert client.ask(b"SET", key, b"payload-of-group-%d" % group) == b"+OK"
    shard.kill(signal.SIGTERM)
    assert shard.wait() == 0
    path = segment_of(shard.config)
    content = bytearray(path.read_bytes())
    content[content.index(b"payload-of-group-2")] ^= 1
    path.write_bytes(content)
    capfd.readouterr()
    again = start(config=shard.config)
    again.wait_serving()
    states = [again.shared.get_group(group, GroupWord.STATE) for group in (1, 2)]
    assert states == [GroupState.SERVING, GroupState.DAMAGED]
    client = again.client()
    assert client.ask(b"GET", keys[1]) == b"payload-of-group-1"
    refused = client.ask(b"GET", keys[2])
    assert refused is not None
    assert refused.startswith(b"-CLUSTERDOWN")
    log = capfd.readouterr().err
    assert f"group 2 is not served: its log is damaged: {path}, offset " in log


# ---- time ------------------------------------------------------------------------------------


def test_a_stopped_shard_does_not_make_up_for_the_ticks_it_missed(
    start: StartShard, tmp_path: Path
) -> None:
    """A burst of ticks would look like the silence of all peers, and begin elections."""
    config = make_config(tmp_path, raft__tick_milliseconds=20)
    shard = start(config=config, entry_point=run_counting)
    shard.wait_serving()
    words = shard.shared.counter_words(0)
    shard.kill(signal.SIGSTOP)
    pid, _ = os.waitpid(shard.pid, os.WUNTRACED)
    assert pid == shard.pid
    stopped_at = words[TICKS_WORD]
    pass_time(1.0)
    assert words[TICKS_WORD] == stopped_at
    continued_seconds = time.monotonic()
    shard.kill(signal.SIGCONT)
    wait_until(lambda: words[TICKS_WORD] >= stopped_at + 5)
    ticks, seconds = words[TICKS_WORD] - stopped_at, time.monotonic() - continued_seconds
    # One at once, then one for each 20 ms; fifty were missed.
    assert ticks <= 3 + seconds / 0.02
    assert shard.shared.route(1)[1] == 1


def test_a_process_without_descriptors_keeps_its_heartbeat(start: StartShard) -> None:
    """The tick opened a file each second: without a free descriptor it failed, for good."""

    def run_with_few_descriptors(boot: ShardBoot) -> int:
        code = os.open("/dev/null", os.O_RDONLY)
        os.close(code)
        resource.setrlimit(resource.RLIMIT_NOFILE, (code + 48, code + 48))
        return run_shard(boot)

    shard = start(entry_point=run_with_few_descriptors)
    shard.wait_serving()
    for _ in range(80):
        shard.client()
    descriptors = Path(f"/proc/{shard.pid}/fd")
    most = max(len(list(descriptors.iterdir())) for _ in range(3))
    memory_words = shard.shared.counter_words(0)
    cpu = memory_words[Counter.CPU_MICROSECONDS_TOTAL]
    wait_until(lambda: memory_words[Counter.CPU_MICROSECONDS_TOTAL] > cpu)
    first = shard.get(Counter.HEARTBEAT)
    wait_until(lambda: shard.get(Counter.HEARTBEAT) >= first + 12)
    assert most > 20


# ---- the end ---------------------------------------------------------------------------------


def test_sigterm_drains_and_exits_0(start: StartShard) -> None:
    shard = start()
    shard.wait_serving()
    client = shard.client()
    assert client.ask(b"SET", b"k", b"v") == b"+OK"
    shard.kill(signal.SIGTERM)
    assert client.read() is None
    assert shard.wait() == 0
    assert shard.get(Counter.STATE) == ShardState.DRAINING


def test_what_was_sent_before_the_drain_is_answered(start: StartShard) -> None:
    shard = start()
    shard.wait_serving()
    client = shard.client()
    assert client.ask(b"PING") == b"+PONG"
    for number in range(500):
        client.send(b"SET", b"k%d" % number, b"v")
    assert client.read() == b"+OK"
    shard.kill(signal.SIGTERM)
    replies = 1
    while (reply := client.read()) is not None:
        assert reply == b"+OK"
        replies += 1
    assert shard.wait() == 0
    again = start(config=shard.config)
    again.wait_serving()
    client = again.client()
    for number in range(replies):
        assert client.ask(b"GET", b"k%d" % number) == b"v"


def test_sigterm_while_the_log_is_not_replayed_yet_ends_the_shard(
    start: StartShard, tmp_path: Path
) -> None:
    """It has no quorum, so its group never leads; draining does not wait for that."""
    config = make_config(tmp_path, nodes=3)
    shard = start(config=config)
    wait_until(lambda: shard.get(Counter.HEARTBEAT) >= 2)
    shard.kill(signal.SIGTERM)
    assert shard.wait() == 0


def test_a_shard_that_is_stopped_while_it_opens_its_listeners_never_serves(
    start: StartShard,
) -> None:
    """It said ["serving"] and accepted clients, though it was draining already."""
    shard = start(entry_point=run_terminated_while_opening)
    assert shard.receive() is None
    assert shard.wait() == 0
    assert shard.get(Counter.STATE) == ShardState.DRAINING


def test_the_end_of_the_supervisor_is_the_end_of_the_shard(start: StartShard) -> None:
    shard = start()
    shard.wait_serving()
    shard.control.close()
    assert shard.wait() == 1


def test_an_exception_in_a_callback_stops_the_shard_and_says_why(
    start: StartShard, capfd: pytest.CaptureFixture[str]
) -> None:
    shard = start(entry_point=run_failing)
    shard.wait_serving()
    assert shard.receive() == ("fatal", ["RuntimeError: a bug in a callback"], [])
    assert shard.wait() == 1
    log = capfd.readouterr().err
    assert "level=critical" in log
    assert "in _fail" in log


def test_an_error_of_the_system_in_a_tick_stops_the_shard(start: StartShard) -> None:
    """The loop survives those of sockets, but after a failed tick no other would follow."""
    shard = start(entry_point=run_out_of_resources)
    shard.wait_serving()
    message = shard.receive()
    assert message is not None
    assert (message.name, "Too many open files" in str(message.arguments[0])) == ("fatal", True)
    assert shard.wait() == 1


def test_a_peer_port_that_is_taken_is_told_to_the_supervisor(
    start: StartShard, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    with socket.create_server((config.peer.host, config.peer.port)):
        shard = start(config=config)
        message = shard.receive()
        assert message is not None
        assert message.name == "fatal"
        assert shard.wait() == 1


def test_a_shard_that_could_not_start_does_not_serve_before_it_ends(
    start: StartShard, tmp_path: Path
) -> None:
    """It did when a tick came between; other tests see that only where one happens to come."""
    config = make_config(tmp_path)
    with socket.create_server((config.peer.host, config.peer.port)):
        shard = start(config=config, entry_point=run_failing_at_a_tick)
        message = shard.receive()
        assert message is not None
        assert message.name == "fatal"
        assert shard.wait() == 1


def test_a_client_port_that_is_taken_is_told_to_the_supervisor(
    start: StartShard, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    with socket.create_server((config.client.host, config.client.shard_port(0))):
        shard = start(config=config)
        message = shard.receive()
        assert message is not None
        assert message.name == "fatal"
        assert shard.wait() == 1


# ---- two shards ------------------------------------------------------------------------------


def start_pair(start: StartShard, tmp_path: Path) -> tuple[ForkedShard, ForkedShard]:
    config = make_config(tmp_path, shards=2, groups=4)
    shared = SharedState(2, 4)
    one, other = socket.socketpair()
    first = start(config=config, shard=0, shared=shared, links={1: one})
    second = start(config=config, shard=1, shared=shared, links={0: other})
    for shard in (first, second):
        shard.wait_serving()
    wait_until(lambda: all(shared.route(group)[0] for group in range(1, 5)))
    return first, second


def keys_of_shard(shard: int, count: int) -> list[bytes]:
    groups = group_by_slot(4)
    names = (b"key:%d" % number for number in range(100_000))
    found: list[bytes] = []
    while len(found) < count:
        name = next(names)
        if groups[slot_of(name)] % 2 == shard:
            found.append(name)
    return found


def test_a_shard_serves_the_groups_of_its_sister(start: StartShard, tmp_path: Path) -> None:
    first, second = start_pair(start, tmp_path)
    client = second.client()
    for key in keys_of_shard(0, 10):
        assert client.ask(b"SET", key, b"v") == b"+OK"
        assert client.ask(b"GET", key) == b"v"
    assert second.get(Counter.FORWARDED_TOTAL) == 20
    assert first.get(Counter.WRITES_TOTAL) == 0


def test_a_fresh_link_to_a_restarted_sister_is_used(start: StartShard, tmp_path: Path) -> None:
    first, second = start_pair(start, tmp_path)
    client = second.client()
    (key,) = keys_of_shard(0, 1)
    assert client.ask(b"SET", key, b"v") == b"+OK"
    first.kill()
    first.wait()
    first.shared.clear_shard(0)
    one, other = socket.socketpair()
    again = start(config=first.config, shard=0, shared=first.shared, links={1: one})
    send_control(second.control, "link", 0, descriptors=(other.fileno(),))
    other.close()
    again.wait_serving()
    wait_until(lambda: all(again.shared.route(group)[0] for group in (2, 4)))
    assert client.ask(b"GET", key) == b"v"


def test_what_a_sister_took_is_answered_when_both_drain(start: StartShard, tmp_path: Path) -> None:
    """The shard of the group ended first, and the sister's clients got -TIMEOUT."""
    first, second = start_pair(start, tmp_path)
    client = second.client()
    keys = keys_of_shard(0, 50)
    assert client.ask(b"PING") == b"+PONG"
    first.kill(signal.SIGSTOP)
    os.waitpid(first.pid, os.WUNTRACED)
    for key in keys:
        client.send(b"SET", key, b"v")
    wait_until(lambda: second.get(Counter.WRITES_TOTAL) > 0)
    for shard in (first, second):
        shard.kill(signal.SIGTERM)
    wait_until(lambda: second.get(Counter.STATE) == ShardState.DRAINING)
    first.kill(signal.SIGCONT)
    replies = []
    while (reply := client.read()) is not None:
        replies.append(reply)
    assert replies
    assert set(replies) == {b"+OK"}
    assert (first.wait(), second.wait()) == (0, 0)


def test_a_log_level_of_the_supervisor_takes_effect(
    start: StartShard, capfd: pytest.CaptureFixture[str]
) -> None:
    shard = start()
    shard.wait_serving()
    send_control(shard.control, "log", "error")
    send_control(shard.control, "something of a later version", 1)
    first = shard.get(Counter.HEARTBEAT)
    wait_until(lambda: shard.get(Counter.HEARTBEAT) > first + 1)
    capfd.readouterr()
    shard.kill(signal.SIGTERM)
    assert shard.wait() == 0
    assert "level=info" not in capfd.readouterr().err


def test_certificates_are_read_again_when_the_supervisor_says_so(
    start: StartShard, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    config = make_config(tmp_path, client__tls_certificate=certificate, client__tls_key=key)
    shard = start(config=config)
    shard.wait_serving()
    context = client_tls(authority)

    def connect() -> ssl.SSLSocket:
        plain = socket.create_connection((HOST, shard.config.client.port), DEADLINE_SECONDS)
        return context.wrap_socket(plain, server_hostname=HOST)

    def serial_number(stream: ssl.SSLSocket) -> object:
        return (stream.getpeercert() or {})["serialNumber"]

    def serial_number_now() -> object:
        with connect() as stream:
            return serial_number(stream)

    with connect() as old:
        first = serial_number(old)
        authority.issue("127.0.0.1")
        assert serial_number_now() == first
        send_control(shard.control, "tls")
        wait_until(lambda: serial_number_now() != first)
        second = serial_number_now()
        key.write_bytes(b"")
        send_control(shard.control, "tls")
        wait_until(lambda: "TLS stays as it was: client.tls_certificate" in capfd.readouterr().err)
        assert serial_number_now() == second
        old.sendall(b"PING\r\n")
        assert old.recv(100) == b"+PONG\r\n"
