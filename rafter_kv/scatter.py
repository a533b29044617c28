"""Send a command that is not of one key alone to its groups, and join what they answer.

Commands of several groups are not atomic across them: each group takes its part in its own log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rafter_kv.command_spec import CommandSpec, Routing
from rafter_kv.reply_slot import Combine, Gather, combine_lists, combine_ok, combine_sum
from rafter_kv.results import INVALID_CURSOR, Result
from rafter_kv.slots import CursorError, decode_cursor, encode_cursor, slot_of

if TYPE_CHECKING:
    from rafter_kv.front_end import FrontEnd
    from rafter_kv.reply_slot import ReplySlot

CROSS_SLOT: Final = "-CROSSSLOT Keys in request don't hash to the same slot"

_ALL_GROUPS: Final[dict[Routing, Combine]] = {
    Routing.ALL_SUM: combine_sum,
    Routing.ALL_CONCAT: combine_lists,
    Routing.ALL_OK: combine_ok,
}


def scatter(
    front_end: FrontEnd, spec: CommandSpec, command: list[bytes], slot: ReplySlot, position: int
) -> int:
    """Submit `command`, whose arity is right, as its routing asks.

    Returns 1 if it is answered already, for then nobody takes it from `slot.waiting`.
    """
    routing = spec.routing
    combine = _ALL_GROUPS.get(routing)
    if combine is not None:
        groups = front_end.groups
        gather = Gather(slot, position, len(groups), combine)
        for part, group in enumerate(groups):
            front_end.submit(group, command.copy(), spec.is_write, gather, part)
        return 0
    if routing is Routing.CURSOR:
        return _scan(front_end, spec, command, slot, position)
    parts = _keys_by_group(front_end, spec, command)
    if len(parts) == 1:
        front_end.submit(next(iter(parts)), command, spec.is_write, slot, position)
        return 0
    if routing is Routing.SPLIT_SUM:
        gather = Gather(slot, position, len(parts), combine_sum)
    elif routing is Routing.SPLIT_ARRAY:
        gather = Gather(slot, position, len(parts), _Placement(parts))
    else:
        assert routing is Routing.SAME_GROUP, f"{spec.name!r} has no way to several groups"
        slot.replies[position] = CROSS_SLOT
        return 1
    for part, (group, arguments) in enumerate(parts.items()):
        keys = [command[argument] for argument in arguments]
        front_end.submit(group, [spec.name, *keys], spec.is_write, gather, part)
    return 0


def _keys_by_group(
    front_end: FrontEnd, spec: CommandSpec, command: list[bytes]
) -> dict[int, list[int]]:
    """Return the positions of the keys by group, groups in the order they are first met."""
    group_by_slot = front_end.group_by_slot
    last = spec.last_key if spec.last_key >= 0 else len(command) + spec.last_key
    parts: dict[int, list[int]] = {}
    for argument in range(spec.first_key, last + 1, spec.key_step):
        parts.setdefault(group_by_slot[slot_of(command[argument])], []).append(argument)
    return parts


class _Placement:
    """Puts the parts' array elements where their keys were in the command: MGET."""

    __slots__ = ("_arguments",)

    def __init__(self, parts: dict[int, list[int]]) -> None:
        self._arguments = list(parts.values())

    def __call__(self, results: list[Result]) -> Result:
        placed: list[Result] = [None] * sum(map(len, self._arguments))
        for arguments, result in zip(self._arguments, results, strict=True):
            assert isinstance(result, list)
            for argument, value in zip(arguments, result, strict=True):
                placed[argument - 1] = value
        return placed


class _CursorRewriter:
    """Turns a group's position into the cursor that the client goes on with: SCAN."""

    __slots__ = ("_groups_count", "_ordinal")

    def __init__(self, ordinal: int, groups_count: int) -> None:
        self._ordinal = ordinal
        self._groups_count = groups_count

    def __call__(self, results: list[Result]) -> Result:
        (result,) = results
        assert isinstance(result, list)
        next_position, keys = result
        assert isinstance(next_position, bytes)
        position = int(next_position)
        ordinal = self._ordinal
        if not position:
            ordinal += 1
        cursor = encode_cursor(ordinal, position) if ordinal < self._groups_count else 0
        return [b"%d" % cursor, keys]


def _scan(
    front_end: FrontEnd, spec: CommandSpec, command: list[bytes], slot: ReplySlot, position: int
) -> int:
    groups = front_end.groups
    try:
        ordinal, place = decode_cursor(command[1], len(groups))
    except CursorError:
        slot.replies[position] = INVALID_CURSOR
        return 1
    command[1] = b"%d" % place
    gather = Gather(slot, position, 1, _CursorRewriter(ordinal, len(groups)))
    front_end.submit(groups[ordinal], command, spec.is_write, gather, 0)
    return 0
