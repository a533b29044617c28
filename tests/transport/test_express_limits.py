"""The limits of express."""

from typing import Any

import pytest

from rafter_transport.express_limits import ExpressLimits


def test_the_defaults_are_possible_and_frames_hold_what_is_allowed() -> None:
    limits = ExpressLimits()
    limits.validate()
    offer_bytes = limits.manifest_bytes_max + limits.message_bytes_max
    assert limits.frame_bytes_max >= max(offer_bytes, limits.chunk_bytes_max)


@pytest.mark.parametrize(
    "changes",
    [
        {"sends_max": 0}, {"receives_max": 0}, {"waiting_max": -1}, {"chunk_bytes_max": 0},
        {"window_bytes": 0}, {"tries_max": 0}, {"progress_seconds": 0}, {"finish_seconds": -1.0},
        {"retry_factor": 0.5}, {"retry_cap_seconds": 0.01}, {"chunk_bytes_max": 1 << 32},
        {"bytes_per_second": 1000},
    ],
)  # fmt: skip
def test_an_impossible_value_is_named(changes: dict[str, Any]) -> None:
    limits = ExpressLimits()._replace(**changes)
    with pytest.raises(ValueError, match=r"must be|at most"):
        limits.validate()


def test_a_rate_must_let_every_send_progress_in_time() -> None:
    limits = ExpressLimits(sends_max=4, chunk_bytes_max=1000, progress_seconds=10)
    limits._replace(bytes_per_second=801).validate()
    with pytest.raises(ValueError, match="must be at least 801"):
        limits._replace(bytes_per_second=800).validate()


def test_a_window_holds_one_chunk_at_least() -> None:
    limits = ExpressLimits(window_bytes=100)
    assert [limits.window_chunks(length) for length in (0, 10, 60, 200)] == [100, 10, 1, 1]
