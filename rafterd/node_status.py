"""RAFTER.STATUS: the state of all nodes, gathered from whoever answers in time.

Each node answers for itself out of its shared words; the shard that was asked merges the answers. A
node that does not answer is listed as unreachable: status is for the hour when things are broken.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rafter_core import NO_NODE
from rafter_kv.reply_slot import ReplySlot, deliver
from rafter_kv.slots import slot_ranges
from rafter_transport.exchanger import Channel
from rafter_transport.payload import PayloadError
from rafter_transport.registry import Registry
from rafterd import __version__
from rafterd.cluster_map import Replacement
from rafterd.config_schema import Config
from rafterd.raft_post import Post
from rafterd.shared import Counter, GroupState, GroupWord, ShardState, SharedState

logger = logging.getLogger(__name__)

GATHERING_MAX = 64
"""Status requests of one shard that may wait for answers; further ones are refused."""
WAIT_SECONDS = 1.0

_ASK = "status"
_ANSWER = "status-of"
_SHARD_FIELDS = ("shard", "state", "clients", "commands", "cpu_microseconds", "memory_bytes")
_GROUP_FIELDS = (
    "group", "leader", "term", "commit", "applied", "last_index", "keys", "state",
)  # fmt: skip


def local_status(config: Config, shared: SharedState) -> list[Any]:
    """Return what this node knows of itself: version, rows of its shards, rows of its groups."""
    shards = [
        [
            shard,
            shared.get(shard, Counter.STATE),
            shared.get(shard, Counter.CLIENTS),
            shared.get(shard, Counter.COMMANDS_TOTAL),
            shared.get(shard, Counter.CPU_MICROSECONDS_TOTAL),
            shared.get(shard, Counter.MEMORY_BYTES),
        ]
        for shard in range(shared.shards)
    ]
    groups = []
    for group in config.local_groups():
        leader, term = shared.route(group)
        words = (
            GroupWord.COMMIT, GroupWord.APPLIED, GroupWord.LAST_INDEX, GroupWord.KEYS,
            GroupWord.STATE,
        )  # fmt: skip
        groups.append([group, leader, term, *(shared.get_group(group, word) for word in words)])
    return [__version__, shards, groups]


class _Gathering(NamedTuple):
    slot: ReplySlot
    position: int
    answers: dict[int, list[Any]]
    waiting: set[int]


class StatusGatherer:
    """Asks all nodes for their status and fills one reply. Used on the shard's loop only."""

    def __init__(
        self,
        config: Config,
        shared: SharedState,
        registry: Registry,
        post: Post,
        call_later: Callable[..., Any],
        schedule: Callable[[], None],
        replacements: Callable[[], Iterable[Replacement]],
    ) -> None:
        self._config = config
        self._shared = shared
        self._registry = registry
        self._post = post
        self._call_later = call_later
        self._schedule = schedule
        self._replacements = replacements
        self._gatherings: dict[int, _Gathering] = {}
        self._number = 0
        # Questions of shards that no link leads to yet; the first answer makes it be dialled.
        self._unanswered: dict[tuple[int, int], set[int]] = {}

    def request(self, slot: ReplySlot, position: int) -> None:
        """Fill `slot.replies[position]` once all nodes answered, or after WAIT_SECONDS."""
        if len(self._gatherings) >= GATHERING_MAX:
            deliver((slot,), (position,), ("-BUSY Too many status requests are under way",))
            return
        own = self._config.node.id
        self._number += 1
        number = self._number
        waiting = {
            node
            for node in self._registry.nodes()
            if node != own and self._post.post(node, 0, Channel.ADMIN, [_ASK, number])
        }
        gathering = _Gathering(
            slot, position, {own: local_status(self._config, self._shared)}, waiting
        )
        self._gatherings[number] = gathering
        if waiting:
            self._call_later(WAIT_SECONDS, self._finish, number)
            self._schedule()
        else:
            self._finish(number)

    def receive(self, node: int, shard: int, items: list[Any]) -> None:
        """Handle ADMIN items: another node's question, or its answer."""
        for item in items:
            if type(item) is not list or len(item) < 2 or type(item[1]) is not int:
                raise PayloadError("an admin item is an array of name, number and arguments")
            name, number = item[0], item[1]
            if name == _ASK:
                self._answer(node, shard, number)
            elif name == _ANSWER:
                self._answered(node, number, item[2:])

    def link_changed(self, node: int, shard: int, is_up: bool) -> None:
        """Answer the questions that waited for a link; forget them if one broke."""
        for number in sorted(self._unanswered.pop((node, shard), ())):
            if is_up:
                self._answer(node, shard, number)

    def _answer(self, node: int, shard: int, number: int) -> None:
        answer = local_status(self._config, self._shared)
        if self._post.post(node, shard, Channel.ADMIN, [_ANSWER, number, *answer]):
            self._schedule()
            return
        unanswered = self._unanswered.setdefault((node, shard), set())
        if len(unanswered) < GATHERING_MAX:
            unanswered.add(number)

    def _answered(self, node: int, number: int, answer: list[Any]) -> None:
        if not _is_well_formed(answer):
            raise PayloadError("a status answer is a version, shard rows and group rows")
        gathering = self._gatherings.get(number)
        if gathering is None or node not in gathering.waiting:
            return
        gathering.waiting.discard(node)
        gathering.answers[node] = answer
        if not gathering.waiting:
            self._finish(number)

    def _finish(self, number: int) -> None:
        gathering = self._gatherings.pop(number, None)
        if gathering is not None:
            reply: Any = _merge(
                self._config, self._registry, self._replacements(), gathering.answers
            )
            deliver((gathering.slot,), (gathering.position,), (reply,))
            self._schedule()


def _is_well_formed(answer: list[Any]) -> bool:
    if len(answer) < 3 or type(answer[0]) is not str:
        return False
    for rows, width in ((answer[1], len(_SHARD_FIELDS)), (answer[2], len(_GROUP_FIELDS))):
        if type(rows) is not list:
            return False
        for row in rows:
            if type(row) is not list or len(row) < width or set(map(type, row)) != {int}:
                return False
    return True


def _merge(
    config: Config,
    registry: Registry,
    replacements: Iterable[Replacement],
    answers: dict[int, list[Any]],
) -> dict[bytes, Any]:
    """Return the map that RAFTER.STATUS replies, made of every node's answer."""
    replacing = {item.node: item for item in replacements}
    nodes = []
    shards = []
    replicas: dict[int, dict[int, dict[str, int]]] = {}
    for node in registry.nodes():
        info = registry.node_info(node)
        answer = answers.get(node)
        client = f"{info.client_host}:{info.client_port}" if info.client_port else ""
        nodes.append(
            {
                b"id": node,
                b"address": f"{info.host}:{info.base_port}".encode(),
                b"client": client.encode(),
                b"state": b"unreachable" if answer is None else b"up",
                b"version": b"" if answer is None else answer[0].encode(),
                b"shards": info.shards or 0,
                b"incarnation": b"" if info.incarnation is None else b"%016x" % info.incarnation,
                b"replacing": _progress_text(replacing.get(node)),
            }
        )
        if answer is None:
            continue
        for row in answer[1]:
            fields = dict(zip(_SHARD_FIELDS, row, strict=False))
            shards.append(_shard_row(node, fields))
        for row in answer[2]:
            fields = dict(zip(_GROUP_FIELDS, row, strict=False))
            replicas.setdefault(fields["group"], {})[node] = fields
    return {
        b"nodes": nodes,
        b"shards": shards,
        b"groups": [
            _group_row(config, group, f"{first}-{last}", replicas.get(group, {}))
            for group, first, last in slot_ranges(config.cluster.groups)
        ],
    }


def _progress_text(replacement: Replacement | None) -> bytes:
    """Say how far the replacement of a node has come; nothing if there is none."""
    if replacement is None:
        return b""
    groups = ", ".join(map(str, replacement.pending)) or "none"
    return f"{replacement.phase.name.lower()}, groups left: {groups}".encode()


def _shard_row(node: int, fields: dict[str, int]) -> dict[bytes, Any]:
    return {
        b"node": node,
        b"shard": fields["shard"],
        b"state": _name(ShardState, fields["state"]),
        b"clients": fields["clients"],
        b"commands": fields["commands"],
        b"cpu_seconds": fields["cpu_microseconds"] / 1_000_000,
        b"memory_bytes": fields["memory_bytes"],
    }


def _group_row(
    config: Config, group: int, slots: str, replicas: dict[int, dict[str, int]]
) -> dict[bytes, Any]:
    # Nodes disagree for a moment after an election: the newest term is right.
    leader, term = NO_NODE, 0
    for fields in replicas.values():
        if (fields["term"], fields["leader"]) > (term, leader):
            leader, term = fields["leader"], fields["term"]
    return {
        b"group": group,
        b"slots": slots.encode(),
        b"members": sorted(config.members(group)),
        b"leader": leader,
        b"term": term,
        b"replicas": [
            {
                b"node": node,
                b"role": b"leader" if node == leader else b"follower",
                b"commit": fields["commit"],
                b"applied": fields["applied"],
                b"last_index": fields["last_index"],
                b"keys": fields["keys"],
                b"state": _name(GroupState, fields["state"]),
            }
            for node, fields in sorted(replicas.items())
        ],
    }


def _name(kind: type[ShardState] | type[GroupState], value: int) -> bytes:
    try:
        return kind(value).name.lower().encode()
    except ValueError:
        return b"unknown"
