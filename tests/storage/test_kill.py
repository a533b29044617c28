"""A writing process is killed for real; what it said was durable is there (fault model 1)."""

import subprocess
import sys
from pathlib import Path

from tests.storage.support import all_entries, entries, log_of, open_manager

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


KILLS = 6


def test_nothing_acknowledged_is_lost_over_many_kills(tmp_path: Path) -> None:
    acknowledged = 0
    for kill in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        recovered = int(process.stdout.readline())
        assert recovered >= acknowledged
        for _ in range(20 + kill * 7):
            acknowledged = int(process.stdout.readline())
        process.kill()
        # Lines that were on their way when it died are acknowledgements too.
        rest, _ = process.communicate()
        lines = [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        acknowledged = int(lines[-1]) if lines else acknowledged
    manager = open_manager(tmp_path)
    assert manager.damaged == {}
    stored = all_entries(log_of(manager, 1))
    assert len(stored) >= acknowledged
    assert stored == entries(1, len(stored))
    # Between the two jobs each kill may have cost the second group one entry.
    assert len(all_entries(log_of(manager, 2))) >= acknowledged - KILLS
    manager.close()
