"""Health of a node: is it alive, is it ready to serve. Read from the shared words, nobody asked.

- alive (/livez): every shard process answers, or is still within its time to start. A node that is
  not alive should be restarted.
- ready (/readyz): every shard serves, and every group with a replica here serves and knows its
  leader. A node that is not ready should get no traffic, and may well be waiting for the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple, Protocol

from rafterd.http_server import Request, Response
from rafterd.shared import GroupState, GroupWord, SharedState


class ShardFact(NamedTuple):
    """What the supervisor knows of one shard."""

    shard: int
    pid: int
    """0 while no process runs."""
    is_alive: bool
    """A process runs, and answers or is within its time to start."""
    is_serving: bool
    restarts: int


class NodeView(Protocol):
    """What health and metrics ask of the supervisor."""

    @property
    def is_stopping(self) -> bool:
        """Whether the node drains."""

    def facts(self) -> list[ShardFact]:
        """Return what is known of each shard."""


class Check(NamedTuple):
    """One thing that was looked at; `trouble` is empty when it is as it should be."""

    name: str
    trouble: str


def live_checks(facts: Iterable[ShardFact]) -> list[Check]:
    """Return the checks of /livez."""
    return [
        Check(f"shard_{fact.shard}", "" if fact.is_alive else "its process does not answer")
        for fact in facts
    ]


def ready_checks(
    facts: Iterable[ShardFact],
    shared: SharedState,
    local_groups: Iterable[int],
    *,
    is_stopping: bool,
) -> list[Check]:
    """Return the checks of /readyz."""
    checks = [Check("node", "it is stopping" if is_stopping else "")]
    checks += [
        Check(f"shard_{fact.shard}", "" if fact.is_serving else "it does not serve yet")
        for fact in facts
    ]
    checks += [Check(f"group_{group}", _group_trouble(shared, group)) for group in local_groups]
    return checks


def health_response(title: str, checks: list[Check], request: Request) -> Response:
    """Answer 200 when all is well, else 503 with what is not; `?verbose` lists every check.

    `?exclude=NAME`, repeatable, leaves a check out (as in etcd).
    """
    excluded = set(request.query.get("exclude", ()))
    checks = [check for check in checks if check.name not in excluded]
    failed = [check for check in checks if check.trouble]
    shown = checks if "verbose" in request.query else failed
    lines = [
        f"[-]{check.name} failed: {check.trouble}" if check.trouble else f"[+]{check.name} ok"
        for check in shown
    ]
    if failed:
        lines.append(f"{title} check failed")
        status = HTTPStatus.SERVICE_UNAVAILABLE
    else:
        lines.append(f"{title} check passed" if lines else "ok")
        status = HTTPStatus.OK
    return Response(status, ("\n".join(lines) + "\n").encode())


def _group_trouble(shared: SharedState, group: int) -> str:
    state = shared.get_group(group, GroupWord.STATE)
    if state == GroupState.DAMAGED:
        return "its log is damaged, see the shard's log"
    if state != GroupState.SERVING:
        return "it has not started yet"
    leader, _term = shared.route(group)
    return "" if leader else "no leader is known"
