import time

from rafterd.clock import Clock


def test_time_is_in_milliseconds_since_the_epoch() -> None:
    assert Clock(lambda: 12.3456).now_ms() == 12345
    assert abs(Clock().now_ms() - time.time() * 1000) < 60_000


def test_time_never_goes_back_whatever_the_system_says() -> None:
    readings = iter([5.0, 7.0, 6.0, 6.9, 7.001])
    clock = Clock(lambda: next(readings))
    assert [clock.now_ms() for _ in range(5)] == [5000, 7000, 7000, 7000, 7001]


def test_time_before_the_epoch_reads_as_zero() -> None:
    assert Clock(lambda: -5.0).now_ms() == 0
