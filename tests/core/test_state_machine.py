from __future__ import annotations

from collections.abc import Generator, Iterable

from rafter_core import StateMachine, Update
from tests.core.support import Driven


class Concatenation:
    """The smallest machine there is: it appends payloads."""

    def __init__(self) -> None:
        self.value = b""

    def open(self) -> int:
        return 0

    def update(self, updates: list[Update]) -> list[object]:
        results: list[object] = []
        for update in updates:
            self.value += update.payload
            results.append(len(self.value))
        return results

    def lookup(self, query: object) -> object:
        return self.value if query == "value" else None

    def prepare_snapshot(self) -> object:
        return self.value

    def save_snapshot(self, prepared: object) -> Generator[bytes, None, None]:
        assert isinstance(prepared, bytes)
        yield prepared

    def recover_from_snapshot(self, chunks: Iterable[bytes]) -> None:
        self.value = b"".join(chunks)

    def close(self) -> None:
        self.value = b""

    def hash(self) -> int:
        return hash(self.value)


def test_a_machine_is_fed_from_what_a_node_commits() -> None:
    machine: StateMachine = Concatenation()
    driven = Driven()
    driven.lead_replicating()
    for payload in (b"one ", b"two"):
        driven.node.propose(payload)
        driven.pump()
        driven.acknowledge(2)
    results = machine.update([Update(e.index, e.payload) for e in driven.committed])
    assert results == [0, 4, 7]
    assert machine.lookup("value") == b"one two"


def test_an_image_restores_an_equal_machine() -> None:
    machine, copy = Concatenation(), Concatenation()
    machine.update([Update(1, b"abc")])
    prepared = machine.prepare_snapshot()
    machine.update([Update(2, b"later")])
    copy.recover_from_snapshot(machine.save_snapshot(prepared))
    assert copy.lookup("value") == b"abc"
