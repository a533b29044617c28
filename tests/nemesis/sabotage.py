"""Nodes that are broken on purpose: `python -m tests.nemesis --sabotage NAME` must find them out.

Each sabotage is a program that Python runs before a node's own, and that replaces one method by a
wrong one. Nothing of it is in the server, nor in the process that judges.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

SABOTAGES = {
    # A leader that was replaced without knowing it answers from what it has.
    "stale-reads": """
import rafter_core.raw_node as raw_node
from rafter_core.ready import ReadState

def read_index(self, context):
    if self.is_leader:
        self._raft.read_states.append(ReadState(self.applied, context))

raw_node.RawNode.read_index = read_index
""",
    # A batch that a router sends again, not knowing that it was applied, is applied again.
    "double-writes": """
from rafter_kv.sessions import Session, Sessions, Status

admit = Sessions.admit

def admit_again(self, identity, sequence, acknowledged_below, now_ms):
    status, session = admit(self, identity, sequence, acknowledged_below, now_ms)
    if status is Status.DUPLICATE:
        return Status.RUN, Session(sequence - 1, sequence, now_ms)
    return status, session

Sessions.admit = admit_again
""",
    # A replica forgets a write now and then, and goes on as if nothing were.
    "forgotten-writes": """
import random
from rafter_kv.machine import KeyValueMachine

update = KeyValueMachine.update

def update_mostly(self, updates):
    if len(updates) > 1 and updates[0].context is None and random.random() < 0.05:
        update(self, updates[1:])
        return [[] for _ in updates]
    return update(self, updates)

KeyValueMachine.update = update_mostly
""",
}


@contextlib.contextmanager
def sabotaged(name: str, directory: Path) -> Iterator[None]:
    """Let every Python that is started within the with statement be broken in this way.

    Without a name nothing is.
    """
    if not name:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sitecustomize.py").write_text(SABOTAGES[name])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(directory), *filter(None, [before])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
