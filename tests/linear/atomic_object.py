"""Histories that are sound by construction: random clients on one atomic object.

Each operation takes effect at a moment of chance between its invocation and its completion. Some
clients stop waiting; their operation took effect, or does so later, or never.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.linear.history import History, Operation, Outcome
from tests.linear.models import AppendList, Batch, Counter, Model, Register

SUB_KEYS = (b"a", b"b", b"c")
MODELS: dict[str, Model] = {
    "register": Register(),
    "counter": Counter(),
    "append": AppendList(),
    "batch": Batch(),
    "lists": Batch(),
}
"""The sorts of object a history can be of."""


@dataclass(slots=True)
class _Pending:
    client: int
    connection: int
    kind: str
    arguments: tuple[Any, ...]
    invoked: int
    is_applied: bool = False
    is_lost: bool = False
    """Whether the client stopped waiting: it does not know the outcome."""
    answer: Any = None


@dataclass(slots=True)
class _Run:
    """A run of random clients on one object."""

    sort: str
    random: Random
    unknown_share: float
    clients: list[_Pending | None]
    state: Any
    now: int = 0
    number: int = 0
    connection: int = 0
    abandoned: list[_Pending] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)

    def step(self) -> None:
        """Let one client, or one operation nobody waits for, go one step on."""
        self.now += 1
        if self.abandoned and self.random.random() < 0.1:
            self.apply(self.abandoned.pop(self.random.randrange(len(self.abandoned))))
            return
        client = self.random.randrange(len(self.clients))
        pending = self.clients[client]
        if pending is None:
            self.clients[client] = self.invoke(client)
        elif not pending.is_applied and not pending.is_lost:
            self.apply(pending)
        else:
            self.complete(pending)
            self.clients[client] = None

    def invoke(self, client: int) -> _Pending:
        self.number += 1
        kind, arguments = self.choose(f"{client}.{self.number};".encode())
        pending = _Pending(client, client + self.connection, kind, arguments, self.now)
        if self.random.random() < self.unknown_share:
            pending.is_lost = True
            # A third happens at once, a third some time later, a third never.
            fate = self.random.randrange(3)
            if fate == 0:
                self.apply(pending)
            elif fate == 1:
                self.abandoned.append(pending)
        return pending

    def choose(self, value: bytes) -> tuple[str, tuple[Any, ...]]:
        """Return an operation of chance; what it writes, if anything, is this value."""
        chance = self.random.random()
        match self.sort:
            case "counter":
                return ("read", ()) if chance < 0.3 else ("add", (self.random.choice((1, 1, 2)),))
            case "append":
                return ("read", ()) if chance < 0.3 else ("append", (value,))
            case "batch":
                if chance < 0.5:
                    return "read_many", (SUB_KEYS,)
                return "write_many", (tuple((sub_key, value) for sub_key in SUB_KEYS),)
            case "lists":
                if chance < 0.3:
                    return "read_many", (SUB_KEYS,)
                sub_key = self.random.choice(SUB_KEYS)
                return ("read", (sub_key,)) if chance < 0.4 else ("append", (sub_key, value))
        if chance < 0.4:
            return "read", ()
        if chance < 0.65:
            return "write", (value,)
        if chance < 0.9:
            # Half the time what is there, as a client that read it just now would.
            expected = self.state if self.random.random() < 0.5 else b"nothing"
            return "cas", (expected, value)
        return self.random.choice((("get_and_set", (value,)), ("set_if_absent", (value,))))

    def apply(self, pending: _Pending) -> None:
        applied = MODELS[self.sort].apply(self.state, pending.kind, pending.arguments)
        assert applied is not None
        self.state, pending.answer = applied
        pending.is_applied = True

    def complete(self, pending: _Pending) -> None:
        outcome = Outcome.UNKNOWN if pending.is_lost else Outcome.OK
        if pending.is_lost:
            self.connection += len(self.clients)
        self.operations.append(
            Operation(
                client=pending.client,
                key=self.sort,
                kind=pending.kind,
                arguments=pending.arguments,
                result=None if pending.is_lost else pending.answer,
                invoked=pending.invoked,
                completed=None if pending.is_lost else self.now,
                outcome=outcome,
                connection=pending.connection,
            )
        )


def sound_history(
    sort: str,
    random: Random,
    *,
    operations: int = 60,
    clients: int = 4,
    unknown_share: float = 0.05,
) -> History:
    """Return a linearizable history of one object, whose key is its sort (of `MODELS`)."""
    run = _Run(sort, random, unknown_share, [None] * clients, MODELS[sort].initial)
    while run.number < operations:
        run.step()
    for pending in run.clients:
        if pending is not None:
            run.now += 1
            if not pending.is_applied and not pending.is_lost:
                run.apply(pending)
            run.complete(pending)
    return History(run.operations, {"sort": sort})
