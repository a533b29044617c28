"""The table of limits."""

import pytest

from rafter_transport import Limits


def test_the_defaults_are_valid() -> None:
    Limits().validate()


@pytest.mark.parametrize(
    ("name", "lowest"),
    [("frame_bytes_max", 4096), ("pending_bytes_max", 16 << 20), ("node_bytes_max", 64 << 20),
     ("connections_max", 1), ("handshaking_max", 1), ("reconnect_factor", 1)],
)  # fmt: skip
def test_a_limit_is_refused_below_its_lowest_value(name: str, lowest: int) -> None:
    Limits()._replace(**{name: lowest}).validate()
    with pytest.raises(ValueError, match=f"{name} = {lowest - 1}: must be"):
        Limits()._replace(**{name: lowest - 1}).validate()


@pytest.mark.parametrize("name", [name for name in Limits._fields if name.endswith("_seconds")])
def test_no_time_may_be_zero(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0: must be"):
        Limits()._replace(**{name: 0}).validate()


def test_a_frame_must_have_a_length_that_its_header_can_hold() -> None:
    huge = Limits(pending_bytes_max=1 << 40, node_bytes_max=1 << 40)
    huge._replace(frame_bytes_max=(1 << 32) - 1).validate()
    with pytest.raises(ValueError, match="frame_bytes_max = 4294967296"):
        huge._replace(frame_bytes_max=1 << 32).validate()


def test_the_cap_must_not_lie_below_the_base() -> None:
    with pytest.raises(ValueError, match=r"reconnect_cap_seconds = 0\.01"):
        Limits(reconnect_cap_seconds=0.01).validate()
