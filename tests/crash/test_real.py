"""A few real kills in every run of the tests; and the proof that a loss would be seen."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.crash.history import History
from tests.crash.injection import Injection, plan, why_impossible
from tests.crash.real import Life, Outcome, Tally
from tests.crash.trace import Strike, Trace, lose_unsynced

LOG = "/d/wal/00000000000000000001.log"


@pytest.fixture
def life(tmp_path: Path) -> Life:
    if reason := why_impossible():
        pytest.skip(reason)
    return Life(tmp_path)


# ---- real kills --------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "injections",
    [
        [
            Injection("fsync", 2, True, 1.0, is_compared=False),  # while the directory is made
            Injection("fdatasync", 20, True, 1.0),
            Injection("rename", 3, True, 0.5, is_compared=False),  # a roll, or a spare
            Injection("pwritev", 2, True, 1.0),
            Injection("fdatasync", 12, False, 1.0),
        ],
        [
            Injection("fallocate", 1, True, 1.0, is_compared=False),  # the first segment
            Injection("pwritev", 30, False, 0.5, goes_on=True),
            Injection("pwritev", 40, True, 0.5),
        ],
        [
            Injection("pwritev", 30, True, 1.0, is_compared=False, has_synced_writes=True),
            Injection("pwritev", 30, False, 1.0, goes_on=True, has_synced_writes=True),
        ],
    ],
    ids=["syncs", "writes", "synced writes"],
)
def test_no_acknowledged_write_is_lost(life: Life, injections: list[Injection]) -> None:
    for number, injection in enumerate(injections):
        outcome = life.run(1, number, injection)
        assert outcome.problems == [], str(injection)
        assert outcome.has_struck, f"{injection} was not met"


def test_a_log_that_lost_synced_bytes_is_noticed(life: Life) -> None:
    outcome = life.run(1, 0, Injection("fdatasync", 15, True, 1.0, is_compared=False))
    assert outcome.acknowledged > 0
    (log,) = life.directory.glob("*/**/wal/*.log")
    content = log.read_bytes()
    # The second half of what was written, as if it had been acknowledged without a sync.
    used = len(content.rstrip(b"\0"))
    with log.open("r+b") as file:
        file.seek(used // 2)
        file.write(bytes(used - used // 2))
    assert life.compare() != []


def test_snapshots_are_taken_and_one_that_lost_bytes_is_noticed(life: Life) -> None:
    """The node itself goes on with the one before, or with the whole log."""
    outcome = life.run(1, 0, Injection("pwritev", 120, True, 0.5, has_synced_writes=True))
    assert outcome.problems == []
    assert life.snapshots > 0
    # Published: what the kill left of one that was being taken goes at the start, and may lie here.
    images = life.directory.glob("*/snapshots/*/*/image")
    path = next(image for image in images if not image.parent.suffix)
    with path.open("r+b") as file:
        file.write(bytes(512))
    (problem,) = life.compare()
    assert str(path) in problem


# ---- the judge of what is read -----------------------------------------------------------------


def _history() -> History:
    history = History()
    key = history.key("k")
    for value in (b"a", b"b", b"c"):
        key.send(value)
    key.acknowledge(b"b")
    counter = history.counter("n")
    counter.sent = 5
    counter.acknowledge(1)
    counter.acknowledge(2)
    return history


@pytest.mark.parametrize(("value", "count"), [(b"b", b"2"), (b"c", b"5")])
def test_the_last_acknowledged_write_or_a_later_one_is_no_loss(value: bytes, count: bytes) -> None:
    assert _history().losses({"k": value, "n": count}) == []


@pytest.mark.parametrize("value", [None, b"a", b"d", b""])
def test_an_older_value_or_none_is_a_loss(value: bytes | None) -> None:
    assert [loss.key for loss in _history().losses({"k": value, "n": b"3"})] == ["k"]


@pytest.mark.parametrize("count", [None, b"1", b"6"])
def test_a_lost_and_a_repeated_increment_are_seen(count: bytes | None) -> None:
    assert [loss.key for loss in _history().losses({"k": b"b", "n": count})] == ["n"]


def test_an_answer_that_was_given_must_be_reached_again() -> None:
    history = History()
    counter = history.counter("n")
    counter.sent = 3
    counter.acknowledge(3)
    assert len(history.losses({"n": b"2"})) == 1
    assert history.losses({"n": b"3"}) == []


def test_a_key_that_was_only_sent_may_be_absent() -> None:
    history = History()
    history.key("k").send(b"a")
    assert history.losses({"k": None}) == []
    assert history.losses({"k": b"a"}) == []


def test_what_was_read_once_must_be_read_again() -> None:
    history = _history()
    found: dict[str, bytes | None] = {"k": b"c", "n": b"4"}
    history.settle(found)
    assert history.losses(found) == []
    assert len(history.losses({"k": b"b", "n": b"3"})) == 2


def test_a_loss_makes_the_run_fail() -> None:
    tally = Tally()
    injection = Injection("fdatasync", 1, True, 0.0)
    tally.add(Outcome(injection, ["fdatasync *.log"], False, 7, 0, []))
    assert (tally.kills, tally.lost) == (1, 0)
    tally.add(Outcome(injection, ["fdatasync *.log"], False, 7, 0, ["k: gone"]))
    assert (tally.kills, tally.lost) == (2, 1)


# ---- the reader of traces ----------------------------------------------------------------------


def _trace(*lines: str) -> Trace:
    trace = Trace()
    for line in lines:
        trace.feed(line)
    return trace


def _unsynced(trace: Trace) -> dict[str, list[tuple[int, int]]]:
    return {
        path: [(write.offset, write.length) for write in writes]
        for path, writes in trace.unsynced.items()
        if writes
    }


def _write(offset: int, length: int, path: str = LOG) -> str:
    return f"7 pwritev2(5<{path}>, [...], 2, {offset}, 0) = {length}"


def test_a_sync_covers_the_writes_before_it() -> None:
    trace = _trace(_write(0, 10), f"7 fdatasync(5<{LOG}>) = 0", _write(10, 20))
    assert _unsynced(trace) == {LOG: [(10, 20)]}


def test_a_sync_does_not_cover_a_write_that_came_while_it_ran() -> None:
    trace = _trace(
        f"8 pwritev(5<{LOG}>, [...], 2, 0) = 10",
        f"7 fdatasync(5<{LOG}> <unfinished ...>",
        f"8 pwritev(5<{LOG}>, [...], 2, 10) = 20",
        "7 <... fdatasync resumed>)          = 0",
    )
    assert _unsynced(trace) == {LOG: [(10, 20)]}


def test_a_sync_that_failed_or_was_cut_covers_nothing() -> None:
    failed = f"7 fdatasync(5<{LOG}>) = -1 EIO (Input/output error) (INJECTED)"
    for line in (failed, f"7 fdatasync(5<{LOG}>) = ?"):
        trace = _trace(_write(0, 10), line)
        # After a failure not even a later sync covers it.
        assert (trace.dropped if line is failed else _unsynced(trace)) == {LOG: [(0, 10)]}
        assert trace.has_struck
        (strike,) = trace.failed + trace.cut
        assert strike.site == "fdatasync *.log"


def _synced_write(offset: int, length: int) -> str:
    return _write(offset, length).replace(f"{offset}, 0)", f"{offset}, RWF_DSYNC)")


def test_a_synced_write_covers_itself_and_nothing_before_it() -> None:
    trace = _trace(_write(0, 10), _synced_write(10, 20))
    assert _unsynced(trace) == {LOG: [(0, 10)]}


@pytest.mark.parametrize("result", ["?", "-1 EIO (Input/output error) (INJECTED)"])
def test_a_synced_write_that_failed_or_was_cut_is_a_site_of_its_own(result: str) -> None:
    failed = _synced_write(10, 20).replace("= 20", f"= {result}")
    (strike,) = _trace(failed).failed + _trace(failed).cut
    assert strike.site == "pwritev2 synced *.log"
    is_broken = "INJECTED" in result
    assert _trace(failed).broken_logs == [strike] * is_broken
    assert len(_trace(failed, _write(0, 10)).complaints) == is_broken


def test_unsynced_bytes_follow_their_file_through_a_rename() -> None:
    trace = _trace(_write(0, 10, "/d/wal/2.tmp"), '7 rename("/d/wal/2.tmp", "/d/wal/2.log") = 0')
    assert _unsynced(trace) == {"/d/wal/2.log": [(0, 10)]}


def test_bytes_follow_all_files_of_a_directory_through_a_rename() -> None:
    image = "/d/snapshots/1/000000000000001a-3.taking/image"
    trace = _trace(
        _write(0, 10, image),
        _write(0, 10, image + "2"),
        f"7 fdatasync(5<{image}>) = 0",
        _write(10, 10, image),
        '7 rename("/d/snapshots/1/000000000000001a-3.taking", "/d/snapshots/1/1a") = 0',
    )
    assert _unsynced(trace) == {
        "/d/snapshots/1/1a/image": [(10, 10)],
        "/d/snapshots/1/1a/image2": [(0, 10)],
    }
    assert trace.durable == {}


def test_what_was_durable_of_a_file_that_is_gone_says_nothing_of_the_next_one() -> None:
    trace = _trace(_write(0, 10), f"7 fdatasync(5<{LOG}>) = 0", f'7 unlink("{LOG}") = 0')
    trace.feed(_write(0, 10))
    assert _unsynced(trace) == {LOG: [(0, 10)]}


def test_a_site_is_the_same_for_all_files_of_a_kind() -> None:
    names = {
        "/d/wal/00000000000000000007.log": "*.log",
        "/d/snapshots/00000000000000000001/000000000000001a-12.taking": "*-*.taking",
        "/d/snapshots/00000000000000000001": "*",
    }
    for path, stem in names.items():
        assert Strike(1, "fsync", path).site == f"fsync {stem}"


def test_a_second_try_after_a_failed_sync_is_a_complaint() -> None:
    failed = f"7 fdatasync(5<{LOG}>) = -1 EIO (Input/output error) (INJECTED)"
    assert _trace(failed, "7 +++ exited with 1 +++", f"9 fdatasync(5<{LOG}>) = 0").complaints == []
    for again in (f"7 fdatasync(5<{LOG}>) = 0", _write(0, 10)):
        assert len(_trace(failed, again, again).complaints) == 1


def test_after_a_failed_sync_only_what_is_written_again_can_be_there() -> None:
    failed = f"7 fdatasync(5<{LOG}>) = -1 EIO (Input/output error) (INJECTED)"
    synced = f"9 fdatasync(5<{LOG}>) = 0"
    trace = _trace(_write(0, 10), failed, synced)
    assert trace.dropped == {LOG: [(0, 10)]}
    trace.feed(_write(2, 4))
    assert trace.dropped == {LOG: [(0, 2), (6, 4)]}
    trace.feed(_write(0, 16))
    trace.feed(synced)
    assert trace.dropped == {}
    assert _unsynced(trace) == {}


def test_what_is_written_again_where_it_was_durable_cannot_be_lost() -> None:
    synced = f"7 fdatasync(5<{LOG}>) = 0"
    trace = _trace(_write(0, 10), synced, _synced_write(10, 20), _write(5, 30))
    assert _unsynced(trace) == {LOG: [(30, 5)]}
    later = Trace(trace.durable)
    later.feed(_write(0, 50))
    assert _unsynced(later) == {LOG: [(30, 20)]}
    # As a spare it may be written with anything.
    spare = "/d/wal/spare-1.free"
    for line in (f'7 rename("{LOG}", "{spare}") = 0', _write(0, 10, spare)):
        later.feed(line)
    assert _unsynced(later)[spare][-1] == (0, 10)


def test_only_unsynced_sectors_are_lost(tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    path.write_bytes(b"x" * 4096)
    trace = _trace(_write(100, 1000, str(path)))
    assert lose_unsynced(trace, tmp_path, random.Random(1), 1.0) == 1000
    assert path.read_bytes() == b"x" * 100 + bytes(1000) + b"x" * 2996
    path.write_bytes(b"x" * 4096)
    lost = lose_unsynced(trace, tmp_path, random.Random(1), 0.5)
    assert 0 < lost < 1000
    assert path.read_bytes().count(0) == lost
    assert lose_unsynced(trace, tmp_path / "elsewhere", random.Random(1), 1.0) == 0


# ---- the plan ----------------------------------------------------------------------------------


def test_the_plan_follows_from_the_seed_and_meets_every_call_both_early_and_late() -> None:
    injections = [plan(1, number) for number in range(200)]
    assert injections == [plan(1, number) for number in range(200)]
    assert injections != [plan(2, number) for number in range(200)]
    assert {each.call for each in injections if each.is_kill} == {
        "fdatasync", "fsync", "pwritev", "rename", "fallocate", "unlink",
    }  # fmt: skip
    failures = [each for each in injections if not each.is_kill]
    assert len(failures) == 40
    assert {each.call for each in failures} == {"fdatasync", "fsync", "pwritev"}
    for is_kill in (True, False):
        modes = [each.has_synced_writes for each in injections if each.is_kill == is_kill]
        assert {True, False} == set(modes)
    for call in ("fdatasync", "pwritev"):
        counts = [each.nth for each in injections if each.call == call]
        assert min(counts) <= 4
        assert max(counts) > 100
