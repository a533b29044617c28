"""What is done to a cluster from outside, tried on proxies, disks and processes of no cluster."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.cluster import Network
from tests.faults.proxy import NO_FAULTS, Proxy, Way
from tests.nemesis.cluster import (
    Cuts,
    SmallDisk,
    failing_syncs,
    why_no_failing_syncs,
    why_no_small_disk,
)


def is_cut(proxy: Proxy, node: int) -> bool:
    return all(proxy.faults(way, node).is_cut for way in Way)


def test_a_cut_strikes_what_one_says_to_the_other_and_nothing_else() -> None:
    with Proxy(("127.0.0.1", 1)) as one, Proxy(("127.0.0.1", 1)) as two:
        cuts = Cuts(Network({1: [one], 2: [two]}))
        cuts.cut([(1, 2)])
        assert is_cut(two, 1)
        assert not is_cut(two, 3)
        assert not is_cut(one, 2)
        assert cuts.pairs == {(1, 2)}


def test_cuts_that_overlap_last_until_each_is_taken_back() -> None:
    with Proxy(("127.0.0.1", 1)) as proxy:
        cuts = Cuts(Network({1: [], 2: [proxy]}))
        cuts.cut([(1, 2)])
        cuts.cut([(1, 2), (3, 2)])
        cuts.join([(1, 2)])
        assert is_cut(proxy, 1)
        cuts.join([(1, 2), (3, 2)])
        assert not is_cut(proxy, 1)
        assert proxy.faults(Way.THERE, 3) == NO_FAULTS
        assert cuts.pairs == set()


def test_a_small_disk_is_full_while_it_is_filled_and_has_room_again(tmp_path: Path) -> None:
    if reason := why_no_small_disk():
        pytest.skip(reason)
    with SmallDisk(tmp_path / "disk", 1 << 20) as disk:
        path = disk.directory / "file"
        path.write_bytes(b"before")
        # Before the filler has begun there may be room for some of it.
        with disk.filled(), pytest.raises(OSError, match="No space left"):
            (disk.directory / "other").write_bytes(b"x" * (2 << 20))
        (disk.directory / "other").unlink()
        path.write_bytes(b"x" * 100_000)
        assert path.read_bytes() == b"x" * 100_000
    assert list(disk.directory.iterdir()) == []


def test_syncs_fail_while_strace_is_attached_and_only_then() -> None:
    if reason := why_no_failing_syncs():
        pytest.skip(reason)
    program = (
        "import os, sys\n"
        "descriptor = os.open('.', os.O_RDONLY)\n"
        "for _ in sys.stdin:\n"
        "    try: os.fsync(descriptor)\n"
        "    except OSError as error: print(error.errno, flush=True)\n"
        "    else: print('well', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def sync() -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert sync() == "well"
        with failing_syncs(process.pid):
            assert sync() == "5"
        assert sync() == "well"
        process.stdin.close()


def test_strace_cannot_be_attached_to_a_process_that_is_gone() -> None:
    if reason := why_no_failing_syncs():
        pytest.skip(reason)
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    with pytest.raises(OSError, match="cannot be attached"), failing_syncs(process.pid):
        pass
