"""The judge pointed at other stores: `python -m tests.nemesis.references etcd|redis`.

At etcd it must find nothing, at a Redis that fails over by force it must find something; at a Redis
that nothing happens to, nothing again. A judge that always says the same proves nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.linear.history import Outcome
from tests.nemesis import etcd, redis_replicas
from tests.nemesis.clients import Address, Client, Connect, Connection, Recorder
from tests.nemesis.etcd import EtcdCluster, EtcdConnection
from tests.nemesis.judge import RECOVERY_SECONDS, Check, check_history, final_value, within
from tests.nemesis.redis_replicas import RedisReplicas
from tests.nemesis.workload import TEAM_CLIENTS, Object, Team, reading

THINK_SECONDS = 0.01
READER = 900
SORTS = {"etcd": ("register", "exchange"), "redis": ("register",)}


async def run_clients(
    addresses: Sequence[Address],
    sorts: Sequence[str],
    happen: Callable[[], Awaitable[None]],
    *,
    seed: int,
    connect: Connect = Connection.open,
) -> tuple[Recorder, list[Check]]:
    """Let a team of clients work while things happen; read everything in the end, and check."""
    generator = random.Random(seed)
    recorder = Recorder()
    team = Team(0, random.Random(generator.random()), sorts)
    clients = [
        Client(
            number, team, addresses, recorder, random.Random(generator.random()), THINK_SECONDS,
            connect,
        )
        for number in range(TEAM_CLIENTS)
    ]  # fmt: skip
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(is_over))
        await happen()
        is_over.set()
    final: dict[str, Any] = {}
    for each in team.objects:
        answer = await within(
            RECOVERY_SECONDS,
            f"{each.name} is read",
            lambda each=each: _read(each, addresses[0], recorder, connect),  # type: ignore[misc]  # mypy infers no lambda with defaults
        )
        assert isinstance(answer, tuple), answer
        (final[each.name],) = answer
    return recorder, check_history(recorder.history, final)


async def _read(
    target: Object, address: Address, recorder: Recorder, connect: Connect
) -> tuple[Any] | None:
    connection = await connect(address)
    try:
        step = reading(target.sort, target.name)
        invoked = recorder.now()
        connection.send([step.words])
        reply = await connection.receive()
    finally:
        connection.close()
    recorder.connections += 1
    outcome = recorder.add(READER, recorder.connections, target, step, invoked, reply)
    if outcome is not Outcome.OK:
        return None
    return (final_value(target, recorder.history.operations[-1].result),)


def judge_etcd(directory: Path, *, seconds: float, seed: int) -> tuple[Recorder, list[Check]]:
    """Kill and pause nodes of an etcd cluster of three, one at a time, all the while."""
    generator = random.Random(seed)
    with EtcdCluster(directory) as cluster:

        async def happen() -> None:
            loop = asyncio.get_running_loop()
            end = loop.time() + seconds
            while loop.time() < end:
                await asyncio.sleep(generator.uniform(0.5, 1.0))
                node = generator.randrange(3)
                if generator.random() < 0.5:
                    cluster.pause(node)
                    await asyncio.sleep(generator.uniform(0.5, 2.0))
                    cluster.go_on(node)
                else:
                    cluster.kill(node)
                    await asyncio.sleep(generator.uniform(0.0, 1.0))
                    cluster.start(node)

        return asyncio.run(
            run_clients(
                cluster.addresses, SORTS["etcd"], happen, seed=seed, connect=EtcdConnection.open
            )
        )


def judge_redis(
    directory: Path, *, seconds: float, seed: int, is_failing_over: bool = True
) -> tuple[Recorder, list[Check]]:
    """Cut the replicas off, kill the primary a moment later, and promote a replica by force."""
    with RedisReplicas(directory) as servers:
        addresses = [servers.address(0)]

        async def happen() -> None:
            await asyncio.sleep(seconds / 3)
            if is_failing_over:
                servers.cut_replication()
            await asyncio.sleep(seconds / 3)
            if is_failing_over:
                servers.kill_primary()
                servers.promote(1)
                addresses[0] = servers.address(1)
            await asyncio.sleep(seconds / 3)

        return asyncio.run(run_clients(addresses, SORTS["redis"], happen, seed=seed))


def violations(checks: Sequence[Check]) -> int:
    """Count what the checks found."""
    return sum(len(check.problems) for check in checks)


def main(arguments: Sequence[str]) -> int:
    """Judge a store; the exit code is 0 if the verdict is the expected one."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis.references")
    parser.add_argument("store", choices=("etcd", "redis"))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    is_etcd = options.store == "etcd"
    if reason := (etcd if is_etcd else redis_replicas).why_absent():
        sys.stdout.write(f"{reason}\n")
        return 1
    run = judge_etcd if is_etcd else judge_redis
    with tempfile.TemporaryDirectory(prefix="rafter-reference-") as directory:
        recorder, checks = run(Path(directory), seconds=options.seconds, seed=options.seed)
    for check in checks:
        lines = [f"{check.name}: {check.examined}: {len(check.problems)} violations"]
        sys.stdout.writelines(f"{line}\n" for line in [*lines, *check.problems[:5]])
    outcomes = Counter(operation.outcome for operation in recorder.history.operations)
    found, undecided = violations(checks), sum(check.undecided for check in checks)
    sys.stdout.write(
        f"{options.store}: {len(recorder.history.operations)} operations, "
        f"{outcomes[Outcome.OK]} ok, {outcomes[Outcome.UNKNOWN]} unknown, "
        f"{found} violations, {undecided} undecided\n"
    )
    return int(undecided > 0 or bool(found) is is_etcd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
