"""The counters."""

from rafter_transport import Counters


def test_all_counters_start_at_zero_and_are_listed_by_name() -> None:
    counters = Counters()
    counters.frames_sent_total += 2
    totals = counters.as_dict()
    assert totals.pop("frames_sent_total") == 2
    assert len(totals) == len(Counters.__slots__) - 1
    assert set(totals.values()) == {0}
