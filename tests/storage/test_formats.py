"""Every released format stays readable: one fixture of each, read by today's code.

A fixture is never written again. A change that breaks one of these tests needs a new format
version, and a reader for both.
"""

import shutil
from pathlib import Path

from rafter_core.entries import HardState
from rafter_storage.data_directory import DataDirectory
from rafter_storage.identity import Identity
from tests.storage.support import all_entries, append, entries, entry, log_of, open_manager

FIXTURES = Path(__file__).parent / "fixtures"


def test_segment_of_format_1_is_read_and_continued(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    target = tmp_path / "wal" / "00000000000000000001.log"
    shutil.copyfile(FIXTURES / "format_1.segment", target)
    expected = {
        1: (HardState(3, 2, 4), [*entries(1, 2), *entries(3, 5, term=3)]),
        7: (HardState(1, 0, 0), [entry(1, payload=b""), entry(2, payload=bytes(range(256)))]),
        9: (HardState(5, 1, 0), []),
    }
    manager = open_manager(tmp_path)
    assert manager.groups() == list(expected)
    for group, (state, stored) in expected.items():
        log = log_of(manager, group)
        assert log.initial_state()[0] == state
        assert all_entries(log) == stored
    append(manager, 1, entries(6, 6, term=3))
    manager.close()
    manager = open_manager(tmp_path)
    assert log_of(manager, 1).last_index() == 6
    manager.close()


def test_identity_of_format_1_is_read(tmp_path: Path) -> None:
    directory = DataDirectory.acquire(tmp_path / "n1")
    identity = Identity.load_or_create(
        directory, cluster_name="demo", node_id=1, groups=8, replication=3, shards=2
    )
    shutil.copyfile(FIXTURES / "format_1.identity", directory.identity_path)
    found = Identity.load_or_create(
        directory, cluster_name="demo", node_id=1, groups=8, replication=3, shards=2
    )
    directory.release()
    assert found.incarnation == 0x0123456789ABCDEF
    assert found == identity._replace(incarnation=found.incarnation)
