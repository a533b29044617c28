"""Changes of the membership as they stand in log entries.

A change of one node may be *simple*: it takes effect as one step, since any two majorities before
and after it overlap. Any other change goes through a *joint* configuration, in which majorities of
both the old and the new voters must agree, and which a second entry leaves again (thesis 4.1, 4.3).

The payload of an entry is a msgpack array, [format, transition, context, kind, node, kind, node,
...]; the empty V2 change, which leaves a joint configuration, is an empty payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import msgpack

from rafter_core.entries import NUMBER_MAX, EntryKind
from rafter_core.errors import ConfChangeError, DecodeError

FORMAT = 1
CHANGES_MAX = 256


class ChangeKind(IntEnum):
    """What happens to one node. The first four numbers are etcd's; all are stored on disk."""

    ADD_VOTER = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER = 3
    ADD_WITNESS = 4


class Transition(IntEnum):
    """How a change goes over. The numbers are etcd's.

    AUTO takes the simple way if there is at most one change, else JOINT_IMPLICIT. In a joint
    configuration that was entered implicitly the leader proposes to leave it; after JOINT_EXPLICIT
    the operator does, with an empty change.
    """

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


class Change(NamedTuple):
    """One node's change. Node 0, an absent node and UPDATE_NODE change nothing."""

    kind: ChangeKind
    node: int


class ConfChange(NamedTuple):
    """A proposal to change the membership. The empty one leaves a joint configuration.

    `context` is opaque and travels along. `is_v1` writes the older kind of entry, which holds one
    change and takes the simple way.
    """

    changes: tuple[Change, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""
    is_v1: bool = False

    @property
    def entry_kind(self) -> EntryKind:
        """Return the kind of entry that holds this change."""
        return EntryKind.CONFIG_CHANGE if self.is_v1 else EntryKind.CONFIG_CHANGE_V2

    @property
    def leaves_joint(self) -> bool:
        """Return whether this is the empty change."""
        return not self.changes and self.transition is Transition.AUTO

    @property
    def enters_joint(self) -> bool:
        """Return whether this goes through a joint configuration."""
        return self.transition is not Transition.AUTO or len(self.changes) > 1

    @property
    def auto_leave(self) -> bool:
        """Return whether the leader is to leave the joint configuration by itself."""
        return self.transition is not Transition.JOINT_EXPLICIT


_CHANGE_KINDS: tuple[ChangeKind, ...] = tuple(ChangeKind)
_TRANSITIONS: tuple[Transition, ...] = tuple(Transition)


def encode(change: ConfChange) -> bytes:
    """Return the payload of the entry that proposes a change.

    Raises ConfChangeError for what `decode` would not take back.
    """
    if change.is_v1 and (len(change.changes) != 1 or change.transition):
        raise ConfChangeError("a V1 change has one operation and no transition")
    if len(change.changes) > CHANGES_MAX:
        raise ConfChangeError(f"{len(change.changes)} changes in one, {CHANGES_MAX} are allowed")
    if not change.is_v1 and change == ConfChange():
        return b""
    items: list[object] = [FORMAT, int(change.transition), change.context]
    for kind, node in change.changes:
        if not 0 <= node <= NUMBER_MAX:
            raise ConfChangeError(f"node {node} is out of range")
        items += (int(kind), node)
    packed: bytes = msgpack.packb(items)
    return packed


def decode(kind: EntryKind, payload: bytes) -> ConfChange:
    """Return the change that an entry of this kind proposes. Raises DecodeError."""
    is_v1 = kind is EntryKind.CONFIG_CHANGE
    if not is_v1 and kind is not EntryKind.CONFIG_CHANGE_V2:
        raise DecodeError(f"an entry of kind {kind!r} holds no configuration change")
    if not payload and not is_v1:
        return ConfChange()
    try:
        items = msgpack.unpackb(payload, max_str_len=0, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise DecodeError(f"a configuration change is not msgpack: {error!r}") from error
    if type(items) is not list or not 3 <= len(items) <= 3 + 2 * CHANGES_MAX or not len(items) % 2:
        raise DecodeError("a configuration change is an array of three items and pairs")
    version, transition, context, *pairs = items
    if type(version) is not int or version != FORMAT:
        raise DecodeError(f"configuration change format {version!r} is unknown")
    if type(transition) is not int or not 0 <= transition < len(_TRANSITIONS):
        raise DecodeError("the transition of a configuration change is unknown")
    if type(context) is not bytes:
        raise DecodeError("the context of a configuration change is not bytes")
    changes = _decode_changes(pairs)
    if is_v1 and (len(changes) != 1 or transition):
        raise DecodeError("a configuration change of the first kind holds one change")
    return ConfChange(changes, _TRANSITIONS[transition], context, is_v1)


def _decode_changes(pairs: Sequence[object]) -> tuple[Change, ...]:
    changes: list[Change] = []
    for kind, node in zip(pairs[::2], pairs[1::2], strict=True):
        if type(kind) is not int or not 0 <= kind < len(_CHANGE_KINDS):
            raise DecodeError("the kind of a membership change is unknown")
        if type(node) is not int or not 0 <= node <= NUMBER_MAX:
            raise DecodeError("the node of a membership change is out of range")
        changes.append(Change(_CHANGE_KINDS[kind], node))
    return tuple(changes)
