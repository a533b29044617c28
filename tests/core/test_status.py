from __future__ import annotations

from rafter_core import ProgressMode, Role
from tests.core.support import Driven


def test_only_the_leader_shows_progress() -> None:
    driven = Driven()
    assert driven.node.status().progress == {}
    driven.lead_replicating()
    status = driven.node.status()
    assert list(status.progress) == [1, 2, 3]
    assert status.progress[2].mode is ProgressMode.REPLICATE
    assert (status.role, status.term, status.commit, status.last_index) == (Role.LEADER, 1, 1, 1)


def test_taking_a_status_is_no_work() -> None:
    driven = Driven()
    driven.node.status()
    assert not driven.node.has_ready()
