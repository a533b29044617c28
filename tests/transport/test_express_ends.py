"""What the parts of express share."""

import asyncio
import threading

import pytest

from rafter_transport.express_ends import ExpressCounters, SinkError, make_workshop
from rafter_transport.express_limits import ExpressLimits
from rafter_transport.express_sender import Ending


def test_counters_begin_at_zero_and_have_one_for_each_ending_of_both_sides() -> None:
    counters = ExpressCounters()
    assert set(counters.as_dict().values()) == {0}
    for ending in Ending:
        for side in ("sends", "receives"):
            counters.add(f"{side}_{ending.value.replace(' ', '_')}")
    assert sum(counters.as_dict().values()) == 2 * len(Ending)
    with pytest.raises(AttributeError):
        counters.add("unknown")


def test_calls_run_on_as_many_threads_as_there_may_be_transfers() -> None:
    async def main() -> None:
        limits = ExpressLimits(sends_max=1, receives_max=2)
        workshop = make_workshop(1, limits, asyncio.get_running_loop())
        meeting = threading.Barrier(3)
        names = await asyncio.gather(*(workshop.run(lambda: arrive(meeting)) for _ in range(3)))
        assert len(set(names)) == 3
        assert threading.current_thread().name not in names
        workshop.executor.shutdown()

    def arrive(meeting: threading.Barrier) -> str:
        meeting.wait(20)
        return threading.current_thread().name

    asyncio.run(main())


def test_a_workshop_checks_its_limits() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="sends_max"):
            make_workshop(1, ExpressLimits(sends_max=0), asyncio.get_running_loop())

    asyncio.run(main())


def test_the_error_of_a_sink_carries_its_code() -> None:
    error = SinkError("disk-full", "no space")
    assert (error.code, str(error)) == ("disk-full", "no space")
