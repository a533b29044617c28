"""What an observer is told."""

from __future__ import annotations

from rafter_core import TraceEvent
from tests.core.support import Driven


def test_notable_events_reach_the_sink_in_order() -> None:
    driven = Driven()
    driven.lead()
    names = [name for name in driven.event_names() if name.startswith("became")]
    assert names == [
        "became_follower",
        "became_pre_candidate",
        "became_candidate",
        "became_leader",
    ]
    assert driven.events[-1] == TraceEvent(1, 1, "became_leader", "no-op at 1")
