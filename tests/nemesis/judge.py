"""The checks of a round: what must hold when the faults are over, and for all that clients saw."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rafter_kv.slots import slot_of, slot_ranges
from tests.linear import cheap
from tests.linear.checker import check
from tests.linear.history import History, HistoryError, Outcome
from tests.linear.models import models_by_kind
from tests.nemesis import replicas
from tests.nemesis.clients import Address, Connection, LostError, Recorder
from tests.nemesis.status import GroupStatus, ask_groups
from tests.nemesis.workload import Object, reading

Value = TypeVar("Value")

RECOVERY_SECONDS = 30.0
"""So long after the last fault everything must be as if there had been none."""
RETRY_SECONDS = 0.1
READERS_FROM = 900
"""The clients that read everything in the end are numbered from here on."""
READ_BACK_PIPELINE = 100


@dataclass
class Check:
    """One thing that was looked at, and what is wrong with it.

    Each of `problems` is a violation; so many of them are `lost` writes that were acknowledged.
    """

    name: str
    examined: str
    problems: list[str] = field(default_factory=list)
    lost: int = 0
    undecided: int = 0
    keys: list[str] = field(default_factory=list)
    """The objects that the problems are about, where that is known."""
    seconds: float = 0.0

    @property
    def is_passed(self) -> bool:
        """Whether nothing is wrong or left open."""
        return not self.problems and not self.undecided


async def within(
    seconds: float, what: str, ask: Callable[[], Awaitable[Value | None]]
) -> Value | str:
    """Ask until there is an answer that is not None, and return it; the reason if none comes."""
    deadline = time.monotonic() + seconds
    reason = ""
    while True:
        try:
            answer = await ask()
        except LostError as error:
            answer, reason = None, f" ({error})"
        if answer is not None:
            return answer
        if time.monotonic() > deadline:
            return f"not within {seconds:.0f} s: {what}{reason}"
        await asyncio.sleep(RETRY_SECONDS)


# ---- while the cluster runs ----------------------------------------------------------------------


def key_of_group(group: int, groups: int) -> bytes:
    """Return a key whose slot belongs to a group."""
    wanted = slot_ranges(groups)[group - 1]
    number = 0
    while not wanted.first <= slot_of(b"alive-%d" % number) <= wanted.last:
        number += 1
    return b"alive-%d" % number


async def check_alive(addresses: Mapping[int, Address], groups: int) -> Check:
    """Write to every group through every node, until all have answered OK."""
    begun = time.monotonic()
    waits = [
        within(
            RECOVERY_SECONDS,
            f"node {node} answers OK to a write to group {group}",
            lambda address=address, group=group: _write_once(  # type: ignore[misc]  # mypy infers no lambda with defaults
                address, key_of_group(group, groups)
            ),
        )
        for node, address in addresses.items()
        for group in range(1, groups + 1)
    ]
    answers = await asyncio.gather(*waits)
    seconds = time.monotonic() - begun
    problems = [answer for answer in answers if isinstance(answer, str)]
    examined = f"all {groups} groups committed through all {len(addresses)} nodes"
    return Check("liveness", f"{examined} after {seconds:.1f} s", problems)


async def _write_once(address: Address, key: bytes) -> bool | None:
    connection = await Connection.open(address)
    with contextlib.closing(connection):
        connection.send([(b"SET", key, b"alive")])
        reply = await connection.receive()
    if isinstance(reply, Exception):
        raise LostError(str(reply))
    return True if reply == b"OK" else None


async def read_back(
    addresses: Mapping[int, Address], objects: Sequence[Object], recorder: Recorder
) -> tuple[Check, dict[str, Any]]:
    """Read all objects at each node, as further operations; return their last values as well."""
    final: dict[str, Any] = {}
    problems: list[str] = []
    for place, (node, address) in enumerate(addresses.items()):
        client = READERS_FROM + place
        for first in range(0, len(objects), READ_BACK_PIPELINE):
            some = objects[first : first + READ_BACK_PIPELINE]
            answer = await within(
                RECOVERY_SECONDS,
                f"node {node} reads everything back",
                lambda address=address, client=client, some=some: _read_all(  # type: ignore[misc]  # mypy infers no lambda with defaults
                    address, client, some, recorder
                ),
            )
            if isinstance(answer, str):
                problems.append(answer)
                break
            differing = [name for name in answer if final.get(name, answer[name]) != answer[name]]
            problems += [
                f"{name} is {final[name]!r}, and {answer[name]!r} at node {node}"
                for name in differing
            ]
            final.update(answer)
    return Check("read back", f"{len(objects)} objects at {len(addresses)} nodes", problems), final


async def _read_all(
    address: Address, client: int, objects: Iterable[Object], recorder: Recorder
) -> dict[str, Any] | None:
    """Read objects in one pipeline; None if some of them were answered with an error."""
    values: dict[str, Any] = {}
    recorder.connections += 1
    number = recorder.connections
    connection = await Connection.open(address)
    with contextlib.closing(connection):
        steps = [(each, reading(each.sort, each.name)) for each in objects]
        invoked = recorder.now()
        connection.send([step.words for _, step in steps])
        for target, step in steps:
            reply = await connection.receive()
            if recorder.add(client, number, target, step, invoked, reply) is Outcome.OK:
                values[target.name] = final_value(target, recorder.history.operations[-1].result)
    return values if len(values) == len(steps) else None


def final_value(target: Object, result: Any) -> Any:
    """Return what the cheap checks call the final value of an object."""
    if target.sort == "batch":
        return dict(zip(reading(target.sort, target.name).arguments[0], result, strict=True))
    return result


async def check_replicas(
    addresses: Mapping[int, Address],
) -> tuple[Check, dict[int, dict[int, int]]]:
    """Wait until all replicas have applied the same; return what they have, settled or not.

    That is group -> node -> index.
    """
    address = next(iter(addresses.values()))
    latest: list[GroupStatus] = []

    async def ask() -> bool | None:
        latest[:] = await ask_groups(address)
        return True if all(map(is_settled, latest)) else None

    answer = await within(RECOVERY_SECONDS, "all replicas have applied the same entries", ask)
    unsettled = [str(group) for group in latest if not is_settled(group)]
    problems = [answer, *unsettled] if isinstance(answer, str) else []
    count = sum(len(group.replicas) for group in latest)
    applied = {
        group.group: {node: replica.applied for node, replica in group.replicas.items()}
        for group in latest
    }
    return Check("replicas", f"{count} replicas of {len(latest)} groups", problems), applied


def is_settled(status: GroupStatus) -> bool:
    """Tell whether a group has a leader, and all its replicas serve and are equally far."""
    replicas = status.replicas.values()
    return (
        status.leader != 0
        and set(status.replicas) == set(status.members)
        and all(replica.applied == replica.commit for replica in replicas)
        and len({(replica.applied, replica.keys) for replica in replicas}) == 1
    )


# ---- once it is stopped --------------------------------------------------------------------------


def check_disks(
    directories: Mapping[int, Path], applied: Mapping[int, Mapping[int, int]]
) -> list[Check]:
    """Verify every byte of stopped nodes, and compare the states that are on their disks."""
    damage = replicas.damages(directories.values())
    copies, found = replicas.compare(directories, applied)
    return [
        Check("disks", f"logs and snapshots of {len(directories)} nodes", damage),
        Check("states", f"hashes of {len(copies)} replicas on disk", list(map(str, found))),
    ]


def check_logs(paths: Iterable[Path], expected: Sequence[str] = ()) -> Check:
    """Look for errors that no node should ever meet, but for those with one of these texts."""
    problems = []
    paths = list(paths)
    for path in paths:
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            is_error = "Traceback (most recent call last)" in line or "InvariantError" in line
            if is_error and not any(text in line for text in expected):
                problems.append(f"{path.name}, line {number}: {line}")
    return Check("node logs", f"{len(paths)} logs without unexpected errors", problems)


# ---- what clients saw ----------------------------------------------------------------------------


def check_history(history: History, final: Mapping[str, Any]) -> list[Check]:
    """Run the cheap checks, then the search, over a whole history."""
    try:
        linear = _check_linear(history)
    except HistoryError as error:
        return [Check("history", "its operations", [f"cannot be checked: {error}"])]
    return [_check_cheaply(history, final), linear]


def _check_cheaply(history: History, final: Mapping[str, Any]) -> Check:
    begun = time.monotonic()
    found = cheap.check_all(history, final)
    return Check(
        "cheap checks",
        f"{len(history.operations)} operations, {len(final)} final values",
        list(map(str, found)),
        lost=sum(map(is_loss, found)),
        seconds=time.monotonic() - begun,
    )


def is_loss(violation: cheap.Violation) -> bool:
    """Tell whether an acknowledged write is not there, rather than there twice."""
    is_twice = " times: " in violation.text
    return violation.check == "lost write" or (violation.check == "miscount" and not is_twice)


def _check_linear(history: History) -> Check:
    begun = time.monotonic()
    report = check(history, models_by_kind(history))
    return Check(
        "linearizability",
        f"{report.operation_count} operations on {len(report.keys)} objects in "
        f"{report.step_count} steps",
        [str(each) for each in report.violations],
        undecided=len(report.undecided),
        keys=[each.key for each in (*report.violations, *report.undecided)],
        seconds=time.monotonic() - begun,
    )
