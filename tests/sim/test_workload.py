"""What clients of a simulation ask."""

from __future__ import annotations

import random
from collections import Counter as Tally

from rafter_kv.slots import group_by_slot, slot_of
from tests.linear.history import Operation, Outcome
from tests.sim.simulation import MODELS
from tests.sim.workload import OPERATIONS_PER_KEY_MAX, Workload

GROUPS = 4


def drawn(count: int) -> tuple[Workload, list[tuple[str, str | None, tuple[bytes, ...]]]]:
    workload = Workload(random.Random(1), GROUPS, 16)
    intents = [workload.next(number % 5) for number in range(count)]
    return workload, [(each.key, each.kind, each.command) for each in intents]


def test_every_operation_is_one_of_its_keys_model() -> None:
    workload = Workload(random.Random(2), GROUPS, 16)
    seen = set()
    for number in range(2000):
        intent = workload.next(1)
        if intent.kind is not None:
            model = next(model for kind, model in MODELS.items() if intent.key.startswith(kind))
            operation = Operation(
                1, intent.key, intent.kind, intent.arguments, None, number, None, Outcome.UNKNOWN
            )
            model.for_history([operation])  # raises for one that it does not know
            seen.add(intent.kind)
    assert seen >= {"read", "write", "get_and_set", "set_if_absent", "delete", "add", "append",
                    "read_many", "write_many"}  # fmt: skip


def test_values_are_unique_and_keys_are_left_in_time() -> None:
    _, intents = drawn(5000)
    per_key = Tally(key for key, kind, _ in intents if kind is not None)
    assert max(per_key.values()) <= OPERATIONS_PER_KEY_MAX
    values = [command[2] for _, kind, command in intents if kind == "write"]
    assert len(values) == len(set(values))


def test_a_key_is_in_the_group_of_its_tag_and_batches_are_of_one_group() -> None:
    workload, intents = drawn(1000)
    table = group_by_slot(GROUPS)
    groups = set()
    for _, kind, command in intents:
        if kind is None:
            continue
        step = 2 if command[0] == b"MSET" else 1
        last = None if command[0] in (b"MGET", b"MSET") else 2
        of_keys = {table[slot_of(key)] for key in command[1:last:step]}
        assert len(of_keys) == 1
        groups |= of_keys
    assert groups == set(range(1, GROUPS + 1))
    for intent in workload.readback():
        assert table[slot_of(intent.command[1])] == workload.group_of(intent)


def test_every_key_is_read_back_and_every_group_probed() -> None:
    workload, intents = drawn(500)
    assert {intent.key for intent in workload.readback()} == {
        key for key, kind, _ in intents if kind is not None
    }
    assert {workload.group_of(probe) for probe in workload.probes()} == set(range(1, GROUPS + 1))


def test_an_echo_that_answers_another_is_a_problem() -> None:
    workload = Workload(random.Random(1), GROUPS, 16)
    echo = next(each for each in iter(lambda: workload.next(1), None) if each.kind is None)
    assert not echo.problem(echo.command[1])
    assert "out of order" in echo.problem(b"another")
