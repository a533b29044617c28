"""Every released format stays readable: one fixture of each, read by today's code.

A fixture is never written again. A change that breaks one of these tests needs a new format
version, and a reader for both.
"""

import shutil
from pathlib import Path

from rafter_core.entries import HardState
from rafter_core.membership import Membership
from rafter_core.snapshot import Snapshot
from rafter_storage.data_directory import DataDirectory
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.group_metadata import GroupMetadata
from rafter_storage.identity import Identity
from rafter_storage.index_dump import dump_path, load_dump
from rafter_storage.scan import scan_sealed
from rafter_storage.segment import SegmentHeader, decode_header, segment_path
from rafter_storage.segment_index import SegmentIndex
from rafter_storage.snapshot_reader import verify_directory
from tests.storage.histories import said_by
from tests.storage.support import all_entries, append, entries, entry, log_of, open_manager
from tests.storage.verification_support import JOINT

FIXTURES = Path(__file__).parent / "fixtures"
SEQUENCE = 7


def test_segment_of_format_2_is_read_and_continued(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    shutil.copyfile(FIXTURES / "format_2.segment", segment_path(tmp_path / "wal", SEQUENCE))
    first, second = Membership((1, 2, 3)), Membership((1, 2, 4), learners=(5,))
    nothing = GroupMetadata()
    expected = {
        1: (
            HardState(3, 2, 4),
            entries(3, 5, term=3),
            GroupMetadata(2, 1, ((1, first), (4, second)), 2, 1),
        ),
        7: (
            HardState(1, 0, 0),
            [entry(1, payload=b""), entry(2, payload=bytes(range(256)))],
            nothing,
        ),
        9: (HardState(5, 1, 0), [], nothing),
        11: (
            HardState(6, 3, 41),
            entries(41, 42, term=6),
            GroupMetadata(40, 6, ((40, second),), 40, 6),
        ),
        15: (HardState(2, 1, 3), entries(1, 3, term=2), nothing),
    }
    manager = open_manager(tmp_path)
    assert (manager.shard_damage, manager.damaged) == (None, {})
    assert manager.groups() == list(expected)
    for group, (state, stored, metadata) in expected.items():
        log = log_of(manager, group)
        assert log.initial_state()[0] == state
        assert all_entries(log) == stored
        assert manager.metadata(group) == metadata
    append(manager, 1, entries(6, 6, term=3))
    manager.close()
    manager = open_manager(tmp_path)
    assert log_of(manager, 1).last_index() == 6
    assert manager.groups() == list(expected)
    manager.close()


def test_dump_of_format_1_says_what_a_scan_of_its_segment_says(tmp_path: Path) -> None:
    path = segment_path(tmp_path, SEQUENCE)
    shutil.copyfile(FIXTURES / "format_2.segment", path)
    shutil.copyfile(FIXTURES / "format_1.index", dump_path(tmp_path, SEQUENCE))
    data = path.read_bytes()
    header = decode_header(path, data)
    assert header == SegmentHeader(SEQUENCE, 0x1122334455667788, 0x99, 5000, 1 << 16, 6)
    scanned = SegmentIndex(SEQUENCE)
    assert scan_sealed(REAL_FILE_SYSTEM, tmp_path, header, len(data), scanned) is None
    loaded = load_dump(REAL_FILE_SYSTEM, tmp_path, header, len(data))
    assert loaded is not None
    assert said_by(loaded) == said_by(scanned)
    assert sorted(loaded.sections) == [1, 7, 9, 11, 13, 15]


def test_identity_of_format_2_is_read(tmp_path: Path) -> None:
    directory = DataDirectory.acquire(tmp_path / "n1")
    identity = Identity.load_or_create(
        directory, cluster_name="demo", node_id=1, groups=8, replication=3
    )
    directory.make_layout(7, 3)
    for shard in range(3):
        open_manager(directory.shard_directory(7, shard)).close()
    shutil.copyfile(FIXTURES / "format_2.identity", directory.identity_path)
    found = Identity.load_or_create(
        directory, cluster_name="demo", node_id=1, groups=8, replication=3
    )
    directory.release()
    assert found == identity._replace(incarnation=0x0123456789ABCDEF, layout=7, shards=3)


def test_snapshot_of_format_1_is_read(tmp_path: Path) -> None:
    shutil.copyfile(FIXTURES / "format_1.manifest", tmp_path / "manifest")
    (tmp_path / "state").write_bytes(bytes(range(40)))
    (tmp_path / "empty").touch()
    report = verify_directory(REAL_FILE_SYSTEM, tmp_path, group=7, index=41)
    assert report.faults == ()
    manifest = report.manifest
    assert manifest is not None
    assert (manifest.snapshot, manifest.membership_index) == (Snapshot(41, 6, JOINT), 40)
    assert manifest.is_imported
    assert [file[:3] for file in manifest.files] == [("state", 40, 16), ("empty", 0, 16)]
