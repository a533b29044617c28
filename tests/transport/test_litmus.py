"""The litmus of the rings, in short; `make litmus` runs a million rounds."""

import pytest

from rafter_transport import ring
from rafter_transport.ring_pair import is_supported
from tests.transport import litmus

pytestmark = pytest.mark.skipif(not is_supported(), reason="no rings on this machine")


def test_no_wake_up_is_lost_and_no_frame_torn(capsys: pytest.CaptureFixture[str]) -> None:
    assert litmus.main(["--rounds", "20000", "--seed", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "20000 rounds, 0 lost, 0 torn"


def test_a_producer_that_wakes_nobody_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_wake", lambda *_: False)
    monkeypatch.setattr(litmus, "SLEEP_SECONDS", 0.05)
    monkeypatch.setattr(litmus, "GRACE_SECONDS", 0.01)
    assert litmus.main(["--rounds", "1000", "--seed", "1"]) == 1


def test_a_consumer_that_looks_before_it_says_that_it_sleeps_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(litmus, "SLEEP_SECONDS", 0.05)
    monkeypatch.setattr(litmus, "GRACE_SECONDS", 0.01)
    assert litmus.main(["--rounds", "10000", "--seed", "1", "--looking-early"]) == 1


def test_a_damaged_frame_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = litmus.Player.frame

    def frame(player: litmus.Player, number: int) -> bytes:
        return whole(player, number)[: 16 + (player.next_number == 0)]

    monkeypatch.setattr(litmus.Player, "frame", frame)
    assert litmus.main(["--rounds", "50", "--seed", "1"]) == 1


def test_a_run_that_does_not_end_is_ended() -> None:
    assert litmus.main(["--rounds", "20000", "--seconds-max", "0"]) == 2
