"""Negative controls: anomalies planted in histories that are sound by construction.

A planter changes the operations of one key so that no order can explain them, and its docstring
says why. All planters rely on `sound_history`: every value, and every token, is written by one
operation only; nothing is deleted; a batch writes one value to all its sub-keys; deltas are
positive. "a before b" means that a completed before b was invoked. A *sure write* is known to have
set the register to its value. `plant` makes a history with the anomaly of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from random import Random

from tests.linear.atomic_object import MODELS, SUB_KEYS, sound_history
from tests.linear.history import History, Operation, Outcome

__all__ = ["MODELS", "PLANTERS", "SUB_KEYS", "plant", "sound_history"]

Planter = Callable[[list[Operation], Random], bool]
"""Changes operations, or returns False if they have no place for the anomaly."""

HISTORIES_TRIED_MAX = 100


def plant(name: str, random: Random) -> History:
    """Return a history that is sound but for the anomaly of this name (of `PLANTERS`)."""
    sort, planter = PLANTERS[name]
    for _ in range(HISTORIES_TRIED_MAX):
        history = sound_history(sort, random, operations=random.randrange(20, 60))
        if planter(history.operations, random):
            history.meta["planted"] = name
            return history
    raise AssertionError(f"no place for {name} in {HISTORIES_TRIED_MAX} histories")


# ---- choosing operations -----------------------------------------------------------------------


def _known(operations: Iterable[Operation], *kinds: str) -> list[Operation]:
    return [one for one in operations if one.outcome is Outcome.OK and one.kind in kinds]


def _writes(operations: Iterable[Operation], kind: str) -> list[Operation]:
    return [one for one in operations if one.outcome is not Outcome.FAILED and one.kind == kind]


def _sure_writes(operations: Iterable[Operation]) -> list[Operation]:
    known = _known(operations, "write", "cas", "get_and_set", "set_if_absent")
    return [one for one in known if one.kind in {"write", "get_and_set"} or one.result]


def _is_before(first: Operation, second: Operation) -> bool:
    return first.completed is not None and first.completed < second.invoked


def _chains(random: Random, *choices: list[Operation]) -> Iterator[list[Operation]]:
    """Yield ways to take one operation of each list so that each is before the next."""
    for choice in choices:
        random.shuffle(choice)
    pending: list[list[Operation]] = [[]]
    while pending:
        chain = pending.pop()
        if len(chain) == len(choices):
            yield chain
            continue
        pending += [
            [*chain, one] for one in choices[len(chain)] if not chain or _is_before(chain[-1], one)
        ]


def _first_chain(random: Random, *choices: list[Operation]) -> list[Operation] | None:
    return next(_chains(random, *choices), None)


def _tokens(value: bytes | None) -> list[bytes]:
    return [token + b";" for token in (value or b"").split(b";")[:-1]]


# ---- registers ---------------------------------------------------------------------------------


def stale_read(operations: list[Operation], random: Random) -> bool:
    """A read sees w1, where w1 before w2 before the read, both sure: w2 had replaced it."""
    sure = _sure_writes(operations)
    chain = _first_chain(random, sure, list(sure), _known(operations, "read"))
    if chain:
        chain[2].result = chain[0].arguments[-1]
    return bool(chain)


def lost_write(operations: list[Operation], random: Random) -> bool:
    """A read after a sure write finds nothing, though nothing is ever deleted."""
    chain = _first_chain(random, _sure_writes(operations), _known(operations, "read"))
    if chain:
        chain[1].result = None
    return bool(chain)


def write_applied_twice(operations: list[Operation], random: Random) -> bool:
    """w1 before w2; a read sees w2, and a read after it w1: w1 took effect after w2 as well."""
    writes = _first_chain(random, _sure_writes(operations), _writes(operations, "write"))
    reads = _first_chain(random, _known(operations, "read"), _known(operations, "read"))
    if writes and reads:
        for read, write in zip(reads, reversed(writes), strict=True):
            read.result = write.arguments[-1]
    return bool(writes and reads)


def unknown_write_applied_twice(operations: list[Operation], random: Random) -> bool:
    """A read sees an unknown write, a sure write replaces it, a read after that sees it again."""
    unknown = [one for one in _writes(operations, "write") if one.outcome is Outcome.UNKNOWN]
    reads = _known(operations, "read")
    chain = _first_chain(random, reads, _sure_writes(operations), list(reads))
    if chain and unknown:
        chain[0].result = chain[2].result = random.choice(unknown).arguments[0]
    return bool(chain and unknown)


def reordered_cas(operations: list[Operation], random: Random) -> bool:
    """The one cas that writes what another expected comes after it: both change their times."""
    done = [one for one in _known(operations, "cas") if one.result]
    for first, second in _chains(random, done, list(done)):
        if second.arguments[0] == first.arguments[1]:
            for field in ("client", "connection", "invoked", "completed"):
                value = getattr(first, field)
                setattr(first, field, getattr(second, field))
                setattr(second, field, value)
            return True
    return False


def cas_won_twice(operations: list[Operation], random: Random) -> bool:
    """Two cas succeed with the same expected value, which was written once: the first ended it."""
    won = [one for one in _known(operations, "cas") if one.result and one.arguments[0] is not None]
    lost = [one for one in _known(operations, "cas") if not one.result]
    if won and lost:
        second = random.choice(lost)
        second.arguments = (random.choice(won).arguments[0], second.arguments[1])
        second.result = True
    return bool(won and lost)


def phantom_value(operations: list[Operation], random: Random) -> bool:
    """A read sees a value that nobody wrote."""
    reads = _known(operations, "read")
    if reads:
        random.choice(reads).result = b"phantom"
    return bool(reads)


def value_from_the_future(operations: list[Operation], random: Random) -> bool:
    """A read sees the value of a write that was invoked after the read had completed."""
    chain = _first_chain(random, _known(operations, "read"), _writes(operations, "write"))
    if chain:
        chain[0].result = chain[1].arguments[0]
    return bool(chain)


def failed_write_seen(operations: list[Operation], random: Random) -> bool:
    """A read sees the value of a write that surely did not happen."""
    writes, reads = _known(operations, "write"), _known(operations, "read")
    if not writes or not reads:
        return False
    write = random.choice(writes)
    write.outcome = Outcome.FAILED
    random.choice(reads).result = write.arguments[0]
    return True


# ---- counters ----------------------------------------------------------------------------------


def lost_add(operations: list[Operation], random: Random) -> bool:
    """A read says less than the acknowledged additions before it make."""
    chain = _first_chain(random, _known(operations, "add"), _known(operations, "read"))
    if chain:
        read = chain[1]
        adds = _known(operations, "add")
        read.result = sum(add.arguments[0] for add in adds if _is_before(add, read)) - 1
    return bool(chain)


def duplicate_add(operations: list[Operation], random: Random) -> bool:
    """A read says more than all additions invoked until its end make, each counted once."""
    reads = _known(operations, "read")
    if not reads:
        return False
    read = random.choice(reads)
    adds = [one for one in _writes(operations, "add") if not _is_before(read, one)]
    read.result = sum(add.arguments[0] for add in adds) + 1
    return True


def same_number_twice(operations: list[Operation], random: Random) -> bool:
    """Two additions answer the same number, though each makes the counter greater."""
    adds = _known(operations, "add")
    if len(adds) < 2:
        return False
    first, second = random.sample(adds, 2)
    second.result = first.result
    return True


def reordered_pipeline(operations: list[Operation], random: Random) -> bool:
    """Of two additions, the one that the connection was asked for first answers more."""
    adds = _known(operations, "add")
    if len(adds) < 2:
        return False
    first, second = sorted(random.sample(adds, 2), key=lambda add: add.result)
    first.connection = second.connection = -2
    second.invoked = first.invoked - 1
    return True


def counter_going_back(operations: list[Operation], random: Random) -> bool:
    """A read after another says less, though the counter only grows."""
    reads = _known(operations, "read")
    chain = _first_chain(random, reads, list(reads))
    if chain:
        chain[1].result = chain[0].result - 1
    return bool(chain)


# ---- append lists ------------------------------------------------------------------------------


def lost_append(operations: list[Operation], random: Random) -> bool:
    """No read has an acknowledged token, not even one after its append."""
    chain = _first_chain(random, _known(operations, "append"), _known(operations, "read"))
    if not chain:
        return False
    (lost,) = chain[0].arguments
    for read in _known(operations, "read"):
        read.result = b"".join(token for token in _tokens(read.result) if token != lost)
    return True


def duplicate_append(operations: list[Operation], random: Random) -> bool:
    """A read has one token twice, which one operation appended."""
    reads = [read for read in _known(operations, "read") if read.result]
    if not reads:
        return False
    read = random.choice(reads)
    tokens = _tokens(read.result)
    tokens.insert(random.randrange(len(tokens) + 1), random.choice(tokens))
    read.result = b"".join(tokens)
    return True


def reordered_appends(operations: list[Operation], random: Random) -> bool:
    """Two reads have the same two tokens in two orders: no list begins with both."""
    reads = [read for read in _known(operations, "read") if len(_tokens(read.result)) >= 2]
    if len(reads) < 2:
        return False
    changed = min(reads, key=lambda read: len(read.result))
    tokens = _tokens(changed.result)
    place = random.randrange(len(tokens) - 1)
    tokens[place : place + 2] = reversed(tokens[place : place + 2])
    changed.result = b"".join(tokens)
    return True


def list_getting_shorter(operations: list[Operation], random: Random) -> bool:
    """A read after another lacks its last token, though the list only grows."""
    reads = _known(operations, "read")
    for first, second in _chains(random, reads, list(reads)):
        if first.result:
            second.result = b"".join(_tokens(first.result)[:-1])
            return True
    return False


# ---- batches -----------------------------------------------------------------------------------


def torn_read(operations: list[Operation], random: Random) -> bool:
    """A read of all sub-keys has values of two batches, each of which wrote one value to all."""
    reads, writes = _known(operations, "read_many"), _writes(operations, "write_many")
    if not reads or not writes:
        return False
    read, write = random.choice(reads), random.choice(writes)
    values = list(read.result)
    (_, other), *_ = write.arguments[0]
    if other in values:
        return False
    values[random.randrange(len(values))] = other
    read.result = tuple(values)
    return True


def stale_batch(operations: list[Operation], random: Random) -> bool:
    """A read sees batch w1, where w1 before w2 before the read: w2 had replaced all of it."""
    writes = _known(operations, "write_many")
    chain = _first_chain(random, writes, list(writes), _known(operations, "read_many"))
    if chain:
        chain[2].result = tuple(value for _, value in chain[0].arguments[0])
    return bool(chain)


def lost_batch(operations: list[Operation], random: Random) -> bool:
    """A read after an acknowledged batch finds nothing, though nothing is ever deleted."""
    writes, reads = _known(operations, "write_many"), _known(operations, "read_many")
    chain = _first_chain(random, writes, reads)
    if chain:
        chain[1].result = (None,) * len(SUB_KEYS)
    return bool(chain)


# ---- lists of a partition ----------------------------------------------------------------------


def torn_lists(operations: list[Operation], random: Random) -> bool:
    """Of tokens a and b, one read sees a without b, another b without a: each came first."""
    reads = _known(operations, "read_many")
    if not reads:
        return False
    model = random.choice(reads)
    for place, client in enumerate((-2, -3)):
        token = b"torn.%d;" % place
        append = copy(model)
        append.client = append.connection = client - 2
        append.kind, append.arguments = "append", (SUB_KEYS[place], token)
        append.outcome, append.completed, append.result = Outcome.UNKNOWN, None, None
        read = copy(model)
        read.client = read.connection = client
        values = list(model.result)
        values[place] = (values[place] or b"") + token
        read.result = tuple(values)
        operations += [append, read]
    return True


def stale_list(operations: list[Operation], random: Random) -> bool:
    """A read of one list, after an acknowledged append to it, has nothing."""
    appends, reads = _known(operations, "append"), _known(operations, "read")
    for append, read in _chains(random, appends, reads):
        if append.arguments[0] == read.arguments[0]:
            read.result = None
            return True
    return False


PLANTERS: dict[str, tuple[str, Planter]] = {
    planter.__name__: (sort, planter)
    for sort, planters in {
        "register": (
            stale_read, lost_write, write_applied_twice, unknown_write_applied_twice,
            reordered_cas, cas_won_twice, phantom_value, value_from_the_future, failed_write_seen,
        ),
        "counter": (
            lost_add, duplicate_add, same_number_twice, reordered_pipeline, counter_going_back,
        ),
        "append": (lost_append, duplicate_append, reordered_appends, list_getting_shorter),
        "batch": (torn_read, stale_batch, lost_batch),
        "lists": (torn_lists, stale_list),
    }.items()
    for planter in planters
}  # fmt: skip
"""The sort of object and the planter of each anomaly."""
