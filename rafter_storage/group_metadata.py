"""What a group's log knows beside entries and hard state: where it begins, and who is in the group.

It is small and changes rarely, so every change is recorded whole; the newest record holds.
"""

from __future__ import annotations

from typing import NamedTuple

import msgpack

from rafter_core.errors import DecodeError
from rafter_core.membership import Membership
from rafter_core.serializer import pack_membership, unpack_membership

__all__ = ["GroupMetadata", "pack_metadata", "unpack_metadata"]

METADATA_FORMAT = 1

_NUMBER_MAX = (1 << 64) - 1
_ITEMS = 6


class GroupMetadata(NamedTuple):
    """The metadata of one group's log.

    The log begins behind ``base_index``; ``base_term`` is the term there. ``memberships`` are
    (index, configuration) pairs, ascending: each is in force from the entry at its index on, and
    the first covers the base; empty while the founding members are all there ever were. An index is
    the configuration's own identity, which is not the snapshot's (dragonboat's import of a snapshot
    once took one for the other). ``snapshot_index`` and ``snapshot_term`` say which snapshot was
    durable last, 0 if none was.
    """

    base_index: int = 0
    base_term: int = 0
    memberships: tuple[tuple[int, Membership], ...] = ()
    snapshot_index: int = 0
    snapshot_term: int = 0

    def membership_at(self, index: int) -> Membership | None:
        """Return the configuration in force at ``index``; None if none was recorded up to there."""
        found = None
        for begin, membership in self.memberships:
            if begin > index:
                break
            found = membership
        return found

    def with_membership(self, index: int, membership: Membership) -> GroupMetadata:
        """Record a configuration; those at and above its index are applied anew, and forgotten."""
        kept = tuple(pair for pair in self.memberships if pair[0] < index)
        return self._replace(memberships=(*kept, (index, membership)))

    def with_base(self, index: int, term: int) -> GroupMetadata:
        """Let the log begin behind ``index``; forget the configurations before the one there."""
        memberships = self.memberships
        while len(memberships) > 1 and memberships[1][0] <= index:
            memberships = memberships[1:]
        return self._replace(base_index=index, base_term=term, memberships=memberships)


def pack_metadata(metadata: GroupMetadata) -> bytes:
    """Return the body of a GROUP or RESET record."""
    packed: bytes = msgpack.packb(
        [
            METADATA_FORMAT,
            metadata.base_index,
            metadata.base_term,
            [[index, pack_membership(membership)] for index, membership in metadata.memberships],
            metadata.snapshot_index,
            metadata.snapshot_term,
        ]
    )
    return packed


def unpack_metadata(data: bytes | memoryview) -> GroupMetadata:
    """Decode what ``pack_metadata`` wrote. Raises ``DecodeError``."""
    try:
        items = msgpack.unpackb(data, use_list=True, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise DecodeError(f"a group's metadata cannot be unpacked: {error}") from error
    if type(items) is not list or not items or items[0] != METADATA_FORMAT:
        raise DecodeError(f"a group's metadata is not of format {METADATA_FORMAT}")
    if len(items) != _ITEMS or type(items[3]) is not list:
        raise DecodeError(f"a group's metadata has not {_ITEMS} items")
    _, base_index, base_term, pairs, snapshot_index, snapshot_term = items
    memberships = []
    last_index = -1
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or type(pair[1]) is not bytes:
            raise DecodeError("a group's metadata holds a membership without its index")
        index = _number(pair[0])
        if index <= last_index:
            raise DecodeError("the memberships in a group's metadata do not ascend")
        last_index = index
        memberships.append((index, unpack_membership(pair[1])))
    return GroupMetadata(
        _number(base_index),
        _number(base_term),
        tuple(memberships),
        _number(snapshot_index),
        _number(snapshot_term),
    )


def _number(item: object) -> int:
    if type(item) is not int or not 0 <= item <= _NUMBER_MAX:
        raise DecodeError(f"a group's metadata has {item!r:.50} in the place of a number")
    return item
