"""The state machine of the system group: the cluster's map, changed by commands of its log.

A command that does not fit is answered by its refusal and changes nothing; doing one twice is
harmless. A command that cannot be read comes from a later version, and stops the replica: passing
over it would let the replicas diverge.
"""

from collections.abc import Generator, Iterable, Mapping
from typing import TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from rafter_core.state_machine import Update
from rafterd.cluster_map import (
    Announce,
    Command,
    Found,
    MapState,
    NodeRecord,
    Phase,
    Progress,
    Replace,
    Replacement,
    pack_image,
    unpack_command,
    unpack_image,
)
from rafterd.placement import SYSTEM_GROUP

Record = TypeVar("Record")


class ClusterMapMachine:
    """Implements `rafter_core.state_machine.StateMachine`.

    The result of an entry is None, or the text of its refusal.
    """

    def __init__(self, state: MapState | None = None) -> None:
        """Begin with a map, by default an empty one, which is not founded yet."""
        self.state = state or MapState()

    def open(self) -> int:
        """Start from nothing: the log and the snapshot under it are the only copy on disk."""
        return 0

    def update(self, updates: list[Update]) -> list[object]:
        """Apply entries in order. Raises DecodeError for one that cannot be read."""
        return [self._apply(update.payload) for update in updates]

    def lookup(self, query: object) -> NodeRecord | None:
        """Return what is known of the node with the id `query`."""
        assert isinstance(query, int), "a query is the id of a node"
        return self.state.nodes.get(query)

    def prepare_snapshot(self) -> MapState:
        """Return the map of now, which never changes."""
        return self.state

    def save_snapshot(self, prepared: object) -> Generator[bytes, None, None]:
        """Yield the image of a map."""
        assert isinstance(prepared, MapState), "that was not prepared here"
        yield pack_image(prepared)

    def recover_from_snapshot(self, chunks: Iterable[bytes]) -> None:
        """Take over the map of an image. Raises DecodeError, and then nothing has changed."""
        self.state = unpack_image(b"".join(chunks))

    def close(self) -> None:
        """Let go of the map."""
        self.state = MapState()

    def hash(self) -> int:
        """Digest the whole map."""
        return xxh3_64_intdigest(pack_image(self.state))

    def _apply(self, payload: bytes) -> str | None:
        if not payload:
            return None
        outcome = changed(self.state, unpack_command(payload))
        if isinstance(outcome, str):
            return outcome
        if outcome != self.state:
            self.state = outcome._replace(version=self.state.version + 1)
        return None


def changed(state: MapState, command: Command) -> MapState | str:
    """Return the map after a command, with its version as it was, or why it is refused."""
    if isinstance(command, Found):
        return _found(state, command)
    if isinstance(command, Announce):
        return _announce(state, command)
    if isinstance(command, Replace):
        return _replace(state, command)
    return _progress(state, command)


def groups_of(state: MapState, node: int) -> list[int]:
    """Return the groups that a node has a replica of, the system group first."""
    data = [group for group, record in state.groups.items() if node in record.members]
    return [SYSTEM_GROUP, *data]


def _found(state: MapState, command: Found) -> MapState | str:
    if state.groups:
        return "the map has been founded before"
    nodes = {record.node: record for record in command.nodes}
    groups = {record.group: record for record in command.groups}
    return state._replace(nodes=_ascending(nodes), groups=_ascending(groups))


def _announce(state: MapState, command: Announce) -> MapState | str:
    record = command.record
    known = state.nodes.get(record.node)
    if known is None:
        return f"node {record.node} is not in the map"
    if known.incarnation not in (0, record.incarnation):
        return (
            f"node {record.node} has incarnation {known.incarnation:016x} in the map, "
            f"and not {record.incarnation:016x}"
        )
    return state._replace(nodes=_with(state.nodes, record.node, record))


def _replace(state: MapState, command: Replace) -> MapState | str:
    """Begin a replacement, also of one that has joined in the place of another one."""
    node, incarnation = command.node, command.incarnation
    known, running = state.nodes.get(node), state.replacements.get(node)
    if known is None:
        return f"node {node} is not in the map"
    if running is not None and incarnation in (running.incarnation, 0):
        return state
    if incarnation == 0:
        return f"node {node} has never been seen: whoever comes first under this id is let in"
    if known.incarnation != incarnation:
        return f"node {node} does not have incarnation {incarnation:016x} any more"
    for group, record in state.groups.items():
        if list(record.members) == [node]:
            return f"group {group} has no replica but that of node {node}: its data would be lost"
    admissions = 0 if running is None else running.admissions
    begun = Replacement(node, incarnation, Phase.LEAVING, groups_of(state, node), admissions)
    return state._replace(replacements=_with(state.replacements, node, begun))


def _progress(state: MapState, command: Progress) -> MapState:
    running = state.replacements.get(command.node)
    told = command.incarnation, command.phase
    if running is None or (running.incarnation, running.phase) != told:
        return state
    pending = [group for group in running.pending if group not in command.groups]
    rest = dict(state.replacements)
    rest[command.node] = msgspec.structs.replace(running, pending=pending)
    if not pending and running.phase is Phase.JOINING:
        del rest[command.node]
    return _let_in(state._replace(replacements=rest))


def _let_in(state: MapState) -> MapState:
    """Open the door for the next incarnation of a node that has left all its groups.

    One node at a time, until it is again what it was. Who comes has forgotten its votes and
    entries, and may be asked for a vote by a member that has not heard yet of its leaving. Against
    one such node every majority of the old members holds one that knows better; against two it need
    not.
    """
    running = list(state.replacements.values())
    for item in [item for item in running if item.admissions] or running:
        if item.phase is Phase.LEAVING and not item.pending:
            node = item.node
            joining = msgspec.structs.replace(
                item,
                phase=Phase.JOINING,
                pending=groups_of(state, node),
                admissions=item.admissions + 1,
            )
            vacant = msgspec.structs.replace(state.nodes[node], incarnation=0)
            return state._replace(
                nodes=_with(state.nodes, node, vacant),
                replacements=_with(state.replacements, node, joining),
            )
    return state


def _with(records: Mapping[int, Record], key: int, record: Record) -> dict[int, Record]:
    return _ascending({**records, key: record})


def _ascending(records: Mapping[int, Record]) -> dict[int, Record]:
    return dict(sorted(records.items()))
