"""The simulated event loop: what asyncio's does, and what can happen to a process."""

from __future__ import annotations

import asyncio

import pytest

from tests.sim.kit import Bench


def test_callbacks_run_in_order_and_timers_when_they_are_due() -> None:
    bench, seen = Bench(), list[object]()
    loop = bench.near
    loop.call_later(0.2, seen.append, "later")
    loop.call_soon(seen.append, 1)
    loop.call_soon(seen.append, 2)
    cancelled = loop.call_later(0.1, seen.append, "cancelled")
    cancelled.cancel()
    bench.run(0.1)
    assert seen == [1, 2]
    bench.run(0.2)
    assert seen == [1, 2, "later"]


def test_what_a_turn_makes_ready_runs_in_the_next_one_which_comes_later() -> None:
    bench, times = Bench(), list[float]()

    def again() -> None:
        times.append(bench.world.now)
        if len(times) < 3:
            bench.near.call_soon(again)

    bench.near.call_soon(again)
    bench.run()
    assert len(set(times)) == 3


def test_tasks_sleep_and_time_out_in_virtual_time() -> None:
    bench = Bench()

    async def work() -> str:
        await asyncio.sleep(5.0)
        try:
            async with asyncio.timeout(3.0):
                await asyncio.sleep(60.0)
        except TimeoutError:
            return "timed out"
        return "slept"

    task = bench.near.create_task(work())
    bench.run(7.9)
    assert not task.done()
    bench.run(0.2)
    assert task.result() == "timed out"


def test_an_executor_runs_later_and_its_error_is_the_callers() -> None:
    bench = Bench()

    async def work() -> int:
        with pytest.raises(ZeroDivisionError):
            await bench.near.run_in_executor(None, lambda: 1 // 0)
        return await bench.near.run_in_executor(None, int, "7")

    task = bench.near.create_task(work())
    bench.run(1.0)
    assert task.result() == 7


def test_a_paused_process_does_nothing_until_it_goes_on() -> None:
    bench, seen = Bench(), list[float]()
    bench.near.call_later(0.1, lambda: seen.append(bench.world.now))
    bench.near.pause(5.0)
    bench.run(1.0)
    assert not seen
    bench.near.resume()
    bench.run(1.0)
    assert seen[0] == pytest.approx(1.0)


def test_a_killed_process_does_nothing_any_more() -> None:
    bench, seen = Bench(), list[str]()
    bench.near.call_soon(bench.near.kill)
    bench.near.call_soon(seen.append, "in the same turn")
    bench.near.call_later(0.1, seen.append, "later")
    bench.near.begin_job(lambda: seen.append("job"), 0.1)
    bench.run(1.0)
    bench.near.call_soon(seen.append, "afterwards")
    bench.run(1.0)
    assert not seen


def test_timers_go_by_the_clock_of_the_host() -> None:
    bench, seen = Bench(), list[float]()
    bench.near.clock.drift(2.0)
    bench.near.call_later(1.0, lambda: seen.append(bench.world.now))
    bench.run(2.0)
    assert seen[0] == pytest.approx(0.5)


def test_what_a_callback_raises_reaches_the_handler() -> None:
    bench = Bench()
    bench.near.call_soon(lambda: 1 // 0)
    bench.run()
    assert isinstance(bench.errors[0]["exception"], ZeroDivisionError)


def test_code_that_is_run_from_outside_has_its_process_for_a_loop() -> None:
    bench = Bench()
    assert bench.near.enter(asyncio.get_running_loop) is bench.near
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
