"""A writing process is killed for real; what it said was durable is there (fault model 1)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.support import all_entries, entries, entry, log_of, open_manager

WRITER = """
import sys
from pathlib import Path
from tests.storage.support import append, entry, log_of, open_manager
manager = open_manager(Path(sys.argv[1]))
index = log_of(manager, 1).last_index()
other = log_of(manager, 2)
print(index, flush=True)
while True:
    index += 1
    append(manager, 1, [entry(index)])
    append(manager, 2, [entry(other.last_index() + 1, payload=b"x" * 3000)])
    print(index, flush=True)
"""

# Appends, snapshots, compaction and every chore, with an idle group that has to be rewritten.
KEEPER = """
import sys
from pathlib import Path
from rafter_core.entries import HardState
from tests.storage.support import *
manager = open_manager(Path(sys.argv[1]), is_direct=sys.argv[2] == "True")
assert (manager.damaged, manager.shard_damage) == ({}, None)
busy, idle = log_of(manager, 1), log_of(manager, 2)
if not idle.last_index():
    append(manager, 2, entries(1, 20), HardState(3, 2, 0))
index = busy.last_index()
print(index, flush=True)
while True:
    index += 1
    append(manager, 1, [entry(index, payload=b"%d" % index * 700)], HardState(1, 1, index - 1))
    if index % 10 == 0:
        change(manager, GroupChange(1, (index - 2, MEMBERSHIP), (index - 1, 1), index - 5))
    print(index, flush=True)
    do_chores(manager)
"""

KILLS = 6


def acknowledged_before_kill(program: str, arguments: list[str], count: int) -> tuple[int, int]:
    """Kill a writer after ``count`` lines; return what it found, and the last it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    recovered = acknowledged = int(process.stdout.readline())
    for _ in range(count):
        acknowledged = int(process.stdout.readline())
    process.kill()
    # Lines that were on their way when it died are acknowledgements too.
    rest, _ = process.communicate()
    lines = [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    return recovered, int(lines[-1]) if lines else acknowledged


def test_nothing_acknowledged_is_lost_over_many_kills(tmp_path: Path) -> None:
    acknowledged = 0
    for kill in range(KILLS):
        before = acknowledged
        recovered, acknowledged = acknowledged_before_kill(WRITER, [str(tmp_path)], 20 + kill * 7)
        assert recovered >= before
    manager = open_manager(tmp_path)
    assert manager.damaged == {}
    stored = all_entries(log_of(manager, 1))
    assert len(stored) >= acknowledged
    assert stored == entries(1, len(stored))
    # Between the two jobs each kill may have cost the second group one entry.
    assert len(all_entries(log_of(manager, 2))) >= acknowledged - KILLS
    manager.close()


def has_direct_io(directory: Path) -> bool:
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT, 0o600)
    except OSError:
        return False
    os.close(descriptor)
    return True


@pytest.mark.parametrize("is_direct", [False, True])
def test_log_that_cleans_itself_survives_kills_at_any_moment(
    tmp_path: Path,
    is_direct: bool,
) -> None:
    if is_direct and not has_direct_io(tmp_path):
        pytest.skip("this file system refuses O_DIRECT")
    acknowledged = 0
    for kill in range(KILLS):
        before = acknowledged
        arguments = [str(tmp_path), str(is_direct)]
        recovered, acknowledged = acknowledged_before_kill(KEEPER, arguments, 97 + kill * 13)
        assert recovered >= before
    manager = open_manager(tmp_path, tail_bytes_max=0)
    assert (manager.damaged, manager.shard_damage) == ({}, None)
    assert manager.statistics().oldest_sequence > 10
    assert all_entries(log_of(manager, 2)) == entries(1, 20)
    assert log_of(manager, 2).initial_state()[0].vote == 2
    log = log_of(manager, 1)
    assert log.last_index() >= acknowledged
    indexes = range(log.first_index(), log.last_index() + 1)
    assert 5 <= len(indexes) <= 16
    assert all_entries(log) == [entry(index, payload=b"%d" % index * 700) for index in indexes]
    assert log.snapshot().index >= log.first_index() - 1
    manager.close()
