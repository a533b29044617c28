"""A node whose shards are told what to do by their first argument; run as a process by the tests.

python -m tests.daemon.supervised_node BEHAVIOUR [rafterd options]. The shards report to
standard output, a line for each event.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from pathlib import Path

from rafter_transport.ring_pair import RingEnd, ShardEnd
from rafterd.boot import EXIT_CONFIG, ShardBoot
from rafterd.config import LoadedConfig, load_config
from rafterd.control import ControlMessage, receive_control, send_control, send_fatal
from rafterd.node import run_node
from rafterd.shard_links import received_end
from rafterd.shared import Counter, GroupState, GroupWord

SEGMENT_BYTES = 8 << 20
"""Of its logs, unless told otherwise: each shard's is written with zeros before it starts."""


def say(boot: ShardBoot, *words: object) -> None:
    os.write(1, (" ".join(map(str, (boot.shard, *words))) + "\n").encode())


def greet(link: socket.socket, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the other one died; its loss is reported later
        link.send(text.encode())


def receive(link: socket.socket) -> bytes:
    try:
        return link.recv(1000)
    except ConnectionResetError:
        return b""


def stream_of(end: ShardEnd) -> socket.socket:
    """Return the socket to another shard; the lifeline, where rings connect them."""
    return end.lifeline if isinstance(end, RingEnd) else end


def descriptors_of(end: ShardEnd) -> tuple[int, ...]:
    return end.descriptors if isinstance(end, RingEnd) else (end.fileno(),)


def serve_groups(boot: ShardBoot) -> None:
    for group in boot.config.local_groups():
        if group % boot.config.node.shards == boot.shard:
            boot.shared.set_group(group, GroupWord.STATE, GroupState.SERVING)
            boot.shared.set_route(group, boot.config.node.id, 1)


class Shard:
    """A small real shard: heartbeat, control, links to the others, drain on SIGTERM."""

    def __init__(
        self,
        boot: ShardBoot,
        *,
        drain_status: int = 0,
        is_deaf: bool = False,
        is_still: bool = False,
    ) -> None:
        self.boot = boot
        self.links = {other: stream_of(end) for other, end in boot.links.items()}
        self.drain_status, self.is_deaf, self.is_still = drain_status, is_deaf, is_still
        self.is_told = False
        self.wake_reader, self.wake_writer = socket.socketpair()
        self.wake_writer.setblocking(False)
        signal.set_wakeup_fd(self.wake_writer.fileno())
        signal.signal(signal.SIGTERM, lambda *_: None)

    def run(self) -> int:
        boot = self.boot
        boot.shared.set_counter(boot.shard, Counter.PID, os.getpid())
        serve_groups(boot)
        send_control(boot.control, "serving")
        say(boot, "serving", os.getpid(), *sorted(self.links))
        for link in self.links.values():
            greet(link, f"hello from {boot.shard};")
        while True:
            if not self.is_still:
                boot.shared.add(boot.shard, Counter.HEARTBEAT)
            watched = [boot.control, self.wake_reader, *self.links.values()]
            for ready in select.select(watched, [], [], 0.05)[0]:
                status = self.on_ready(ready)
                if status is not None:
                    return status

    def on_ready(self, ready: socket.socket) -> int | None:
        if ready is self.wake_reader:
            self.wake_reader.recv(100)
            say(self.boot, "terminated")
            return None if self.is_deaf else self.drain_status
        if ready is self.boot.control:
            message = receive_control(self.boot.control)
            if message is None:
                say(self.boot, "orphaned")
                return 3
            self.on_message(message)
            return None
        for other, link in list(self.links.items()):
            if link is ready:
                data = receive(link)
                if not data:
                    say(self.boot, "lost", other)
                    del self.links[other]
                    link.close()
                else:
                    say(self.boot, "heard", other, data.decode())
        return None

    def on_message(self, message: ControlMessage) -> None:
        if message.name in ("link", "rings"):
            other, end = received_end(message)
            if old := self.links.pop(other, None):
                old.close()
            self.links[other] = stream_of(end)
            greet(self.links[other], f"hello again from {self.boot.shard};")
            say(self.boot, "linked", other)
        else:
            say(self.boot, message.name, *message.arguments)


def serve(boot: ShardBoot) -> int:
    return Shard(boot).run()


def deaf(boot: ShardBoot) -> int:
    return Shard(boot, is_deaf=True).run()


def fail_at_drain(boot: ShardBoot) -> int:
    return Shard(boot, drain_status=5).run()


def still(boot: ShardBoot) -> int:
    """Shard 0 serves but never moves, in its first life."""
    marker = Path(boot.config.node.data_dir, "was-still")
    is_first = boot.shard == 0 and not marker.exists()
    if is_first:  # the marker is shard 0's own: the shards start in any order
        marker.touch()
    return Shard(boot, is_still=is_first).run()


def late(boot: ShardBoot) -> int:
    """Shard 1 waits for a file before it serves."""
    if boot.shard == 1:
        go = Path(boot.config.node.data_dir, "go")
        while not go.exists():
            select.select([boot.control], [], [], 0.02)
    return Shard(boot).run()


def hopeless(boot: ShardBoot) -> int:
    send_fatal(boot.control, "the disk is on fire")
    return 1


def misconfigured(boot: ShardBoot) -> int:
    return EXIT_CONFIG if boot.shard == 1 else Shard(boot).run()


def misconfigured_alone(boot: ShardBoot) -> int:
    return EXIT_CONFIG


def raising(boot: ShardBoot) -> int:
    raise RuntimeError("a bug in the shard")


def descriptors(boot: ShardBoot) -> int:
    """Say which sockets are open besides the shard's own."""
    own = {boot.control.fileno(), 0, 1, 2}
    for end in boot.links.values():
        own.update(descriptors_of(end))
    foreign = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if int(name) not in own:
            foreign.append(target.split(":")[0])
    say(boot, "descriptors", *sorted(foreign))
    return Shard(boot).run()


def main() -> None:
    behaviour, *options = sys.argv[1:]
    overrides = {"storage.segment_bytes": str(SEGMENT_BYTES)}
    overrides |= dict(option.split("=", 1) for option in options)

    def reload() -> LoadedConfig:
        path = os.environ.get("RELOAD_FROM")
        return load_config(Path(path) if path else None, overrides=overrides)

    loaded = reload()
    is_banner = "BANNER" in os.environ
    sys.exit(
        run_node(loaded.config, reload=reload, is_banner=is_banner, run_shard=globals()[behaviour])
    )


if __name__ == "__main__":
    main()
