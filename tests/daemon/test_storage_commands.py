"""Tests of rafterd.storage_commands, through the command line alone."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rafter_core.entries import HardState
from rafter_storage.data_directory import DataDirectory
from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafter_storage.record import RecordKind
from rafter_storage.snapshot_files import read_manifest
from rafter_storage.snapshot_reader import FAULTS_MAX, SnapshotInfo
from rafter_storage.snapshot_transfer import export_snapshot
from rafterd import storage_commands as commands
from rafterd.main import main
from tests.storage.support import segment_files
from tests.storage.verification_support import (
    add_record,
    flipped,
    header_of,
    make_node,
    make_small_log,
    records_of,
    tree_of,
)

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="rafterd")


@pytest.fixture
def node(tmp_path: Path) -> Path:
    path = tmp_path / "node"
    make_node(path)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    make_small_log(tmp_path / "log")
    return tmp_path / "log"


def shard(node: Path, number: int) -> Path:
    return node / "shards-00001" / f"{number:05d}"


def snapshot_of(node: Path) -> Path:
    return node / "snapshots" / f"{1:020d}" / f"{4:016x}"


# ---- wal verify ------------------------------------------------------------------------------


def test_verify_of_a_sound_node_sums_up_each_shard_and_group(node: Path) -> None:
    result = run("wal", "verify", node)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[-1] == f"{node}: ok"
    assert [line for line in lines if line.startswith("log ")] == [
        f"log shard={number} segments=1 first_sequence=1 records={records} record_bytes={size} "
        f"groups=2 damages=0 directory={shard(node, number) / 'wal'}"
        for number, records, size in ((number, *_sums(shard(node, number))) for number in (0, 1))
    ]
    groups = [line for line in lines if line.startswith("group ")]
    assert groups == [
        "group 2 shard=0 entries=1..6 term=2 vote=1 commit=5 base=0@0 snapshot=0@0",
        "group 4 shard=0 entries=1..6 term=2 vote=1 commit=5 base=0@0 snapshot=0@0",
        "group 1 shard=1 entries=4..6 term=2 vote=1 commit=5 base=3@2 snapshot=4@2",
        "group 3 shard=1 entries=1..6 term=2 vote=1 commit=5 base=0@0 snapshot=0@0",
    ]


def _sums(directory: Path) -> tuple[int, int]:
    found = records_of(segment_files(directory)[0])
    return len(found), sum(prefix.length for _, prefix in found)


def test_verify_takes_a_shard_or_a_log_as_well(node: Path) -> None:
    for below in (shard(node, 1), shard(node, 1) / "wal"):
        result = run("wal", "verify", below)
        assert result.exit_code == 0
        assert result.stdout.startswith("log shard=1 ")


def test_verify_names_the_first_damage_and_counts_the_rest(node: Path) -> None:
    first, second = (segment_files(shard(node, number))[0] for number in (0, 1))
    at_first, at_second = records_of(first)[0][0], records_of(second)[0][0]
    with flipped(first, at_first + 100), flipped(second, at_second + 100):
        result = run("wal", "verify", node)
        listed = run("wal", "verify", "--all", node)
    assert (result.exit_code, listed.exit_code) == (1, 1)
    assert "ok" not in result.stdout
    line, more = result.stderr.splitlines()
    assert line.startswith(f"rafterd: {first}, offset {at_first}: group 2: ")
    assert more == "rafterd: and 1 more; --all lists them"
    assert listed.stderr.splitlines()[0] == line
    assert listed.stderr.splitlines()[1].startswith(f"rafterd: {second}, offset {at_second}: ")
    assert len(listed.stderr.splitlines()) == 2


def test_verify_finds_a_log_that_was_emptied_or_has_lost_its_newest_segment(
    node: Path, log: Path
) -> None:
    wal = shard(node, 1) / "wal"
    for path in wal.iterdir():
        path.unlink()
    for path in (node, wal):
        result = run("wal", "verify", path)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"rafterd: {wal}, offset 0: the log has no segment left")
    newest = segment_files(log)[-1]
    newest.unlink()
    result = run("wal", "verify", log)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"rafterd: {newest}, offset 0: the segment is missing")


def test_verify_prints_notes_and_is_content(log: Path) -> None:
    (log / "wal" / "lost+found").mkdir()
    result = run("wal", "verify", log)
    assert result.exit_code == 0
    assert f"note: {log / 'wal' / 'lost+found'} is no part of the log\n" in result.stdout


def test_commands_never_write(node: Path) -> None:
    before = tree_of(node)
    for arguments in (
        ("wal", "verify", node),
        ("wal", "dump", "--entries", node),
        ("snapshot", "verify", snapshot_of(node)),
    ):
        assert run(*arguments).exit_code == 0
    assert tree_of(node) == before


# ---- a running node --------------------------------------------------------------------------


def test_directory_of_a_running_node_is_looked_at_by_force_alone(node: Path) -> None:
    directory = DataDirectory.acquire(node)
    try:
        for command, path in (
            (("wal", "verify"), node),
            (("wal", "verify"), shard(node, 0) / "wal"),
            (("wal", "dump"), shard(node, 0)),
            (("snapshot", "verify"), snapshot_of(node)),
            (("snapshot", "verify"), snapshot_of(node) / "state"),
        ):
            result = run(*command, path)
            assert (result.exit_code, result.stdout) == (2, "")
            assert f"{node} is in use by process {os.getpid()}: stop it" in result.stderr
            assert run(*command, "--force", path).exit_code == 0
    finally:
        directory.release()


@pytest.mark.parametrize("is_damaged", [True, False])
def test_damage_that_is_found_while_a_node_starts_is_not_believed(
    node: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    """A node that starts meanwhile writes what is being read; what is sound is sound nevertheless.

    The first look at the lock finds nobody.
    """
    started: list[DataDirectory] = []

    def starting(verify: Callable[..., object]) -> Callable[..., object]:
        def verify_meanwhile(*arguments: object) -> object:
            started.append(DataDirectory.acquire(node))
            return verify(*arguments)

        return verify_meanwhile

    for name in ("verify_node", "verify_log", "verify_path"):
        monkeypatch.setattr(commands, name, starting(getattr(commands, name)))
    segment = segment_files(shard(node, 0))[0]
    for command, path, damaged in (
        ("wal", node, segment),
        ("wal", shard(node, 0) / "wal", segment),
        ("snapshot", snapshot_of(node), snapshot_of(node) / "state"),
    ):
        with flipped(damaged, 0) if is_damaged else contextlib.nullcontext():
            result = run(command, "verify", path)
        assert len(started) == 1
        started.pop().release()
        if is_damaged:
            assert (result.exit_code, result.stdout) == (2, "")
            assert f"{node} is in use by process {os.getpid()}: stop it" in result.stderr
        else:
            assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("command", [("wal", "verify"), ("wal", "dump"), ("snapshot", "verify")])
def test_wrong_path_is_no_damage(tmp_path: Path, command: tuple[str, str]) -> None:
    result = run(*command, tmp_path / "nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"rafterd: there is no {tmp_path / 'nowhere'}\n"
    (tmp_path / "file").write_bytes(b"")
    assert run(*command, tmp_path / "file").exit_code in {1, 2}


def test_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    result = run("wal", "verify", tmp_path)
    assert result.exit_code == 2
    assert "is neither a node's data directory, nor a shard's" in result.stderr


def test_dump_needs_the_identity_and_a_shard_does_not(node: Path) -> None:
    (node / "identity").write_bytes(b"?")
    result = run("wal", "dump", node)
    assert result.exit_code == 2
    assert "identity" in result.stderr
    assert run("wal", "dump", shard(node, 0)).exit_code == 0


# ---- wal dump --------------------------------------------------------------------------------


def test_dump_prints_every_segment_and_every_record(log: Path) -> None:
    result = run("wal", "dump", log)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"log shard=unknown directory={log / 'wal'}"
    segments = [line for line in lines if line.startswith("segment ")]
    states = ["state=sealed", "state=sealed", "state=tail"]
    indexes = ["index=good", "index=good", "index=none"]
    assert segments == [
        f"segment {number} {state} seed={_seed(path)} bytes=65536 end={_end(path)} "
        f"first_sequence=1 {index} file={path}"
        for number, (state, index, path) in enumerate(
            zip(states, indexes, segment_files(log), strict=True), 1
        )
    ]
    places = re.findall(r"^  record segment=(\d+) offset=(\d+) ", result.stdout, re.MULTILINE)
    assert [(int(number), int(offset)) for number, offset in places] == [
        (number, offset)
        for number, path in enumerate(segment_files(log), 1)
        for offset, _ in records_of(path)
    ]
    length = records_of(segment_files(log)[0])[0][1].length
    assert (
        f"  record segment=1 offset=4096 kind=ENTRIES bytes={length} synced=4096 group=1 term=1 "
        "vote=1 commit=0 entries=1..3@1" in lines
    )
    assert "    metadata base=1@1 snapshot=2@1" in lines
    assert (
        "    membership index=2 voters=1,2 voters_outgoing=2,3 learners=4 learners_next=3 "
        "auto_leave=yes witnesses=2" in lines
    )
    assert any("kind=MARK" in line and "first_sequence=1" in line for line in lines)
    assert "entry" not in result.stdout
    assert "flags" not in result.stdout


def _end(path: Path) -> int:
    offset, prefix = records_of(path)[-1]
    return offset + (prefix.length + 7) // 8 * 8


def test_dump_can_be_of_one_group_and_one_segment(log: Path) -> None:
    result = run("wal", "dump", "--group", 2, "--segment", 1, log)
    records = [line for line in result.stdout.splitlines() if line.startswith("  record ")]
    assert len(records) == 1
    assert " segment=1 " in records[0]
    assert " group=2 " in records[0]
    assert result.stdout.count("\nsegment ") == 1
    assert "segment 9 is not there\n" in run("wal", "dump", "--segment", 9, log).stdout


def test_dump_shows_entries_and_no_more_of_a_payload_than_fits_a_line(log: Path) -> None:
    lines = run("wal", "dump", "--entries", log).stdout.splitlines()
    assert "    entry index=1 term=1 kind=NORMAL bytes=3 payload=b'1/1'" in lines
    shown = "x" * 32
    assert f"    entry index=5 term=2 kind=NORMAL bytes=25000 payload=b'{shown}'..." in lines
    assert max(map(len, lines)) < 300


def test_dump_flags_what_is_bad_and_judges_nothing(log: Path) -> None:
    first, second, _ = segment_files(log)
    one, two, three = (records_of(first)[number][0] for number in (0, 1, 2))
    with flipped(first, one + 100), flipped(first, two + 16), flipped(second, 8):
        result = run("wal", "dump", "--entries", log)
    assert result.exit_code == 0
    flags = re.findall(r"offset=(\d+).* flags=(\S+)$", result.stdout, re.MULTILINE)
    assert (str(one), "bad-body") in flags
    assert f"offset={two} flags=bad-prefix" in result.stdout
    assert f'segment 2 fault="the segment\'s header is damaged" file={second}' in result.stdout
    assert f"offset={three} kind=ENTRIES" in result.stdout


def test_dump_prints_what_it_does_not_understand(log: Path) -> None:
    path = segment_files(log)[-1]
    add_record(path, 9, 1, HardState(2, 3, 6), (0, 0, 0), b"?")
    add_record(path, RecordKind.PADDING, 0, HardState(), (0, 0, 0), bytes(8))
    lines = run("wal", "dump", log).stdout.splitlines()
    assert " kind=9 bytes=97 " in lines[-3]
    assert lines[-2].startswith("    bad: a record of kind 9, which this program does not know")
    assert " kind=PADDING bytes=104 " in lines[-1]
    assert "group" not in lines[-1]
    found = run("wal", "dump", "--group", 0, log).stdout
    assert "  record" not in found


def test_dump_tells_of_a_torn_tail(log: Path) -> None:
    path = segment_files(log)[-1]
    # All records but the last ones, which are the proof that the one before them was synced.
    (torn, prefix), (behind, _), _ = records_of(path)[-3:]
    with path.open("r+b") as file:
        file.seek(behind)
        file.write(bytes(200))
    with flipped(path, torn + prefix.length - 1):
        result = run("wal", "dump", log)
    assert f"  torn offset={torn} bytes={behind - torn}\n" in result.stdout
    assert f" state=tail seed={_seed(path)} bytes=65536 end={torn} " in result.stdout


def _seed(path: Path) -> str:
    return f"{header_of(path).seed:016x}"


# ---- snapshot verify -------------------------------------------------------------------------


def test_sound_snapshot_is_described(node: Path) -> None:
    path = snapshot_of(node)
    result = run("snapshot", "verify", path)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == (
        f"snapshot group=1 index=4 term=2 files=1 bytes=3000 imported=no directory={path}"
    )
    assert lines[1] == "membership index=2 voters=1,2,3"
    assert lines[2].startswith("file state bytes=3000 chunks=1 chunk_bytes=262144 checksum=")
    assert lines[3:] == [f"{path}: ok"]


def test_exported_snapshot_its_manifest_and_its_files_are_verified_alone(
    node: Path, tmp_path: Path
) -> None:
    info = SnapshotInfo(snapshot_of(node), read_manifest(REAL_FILE_SYSTEM, snapshot_of(node)))
    target = tmp_path / "exported"
    export_snapshot(info, target)
    for path in (target, target / "manifest", target / "state"):
        assert run("snapshot", "verify", path).stdout.endswith(f"{path}: ok\n")
    with flipped(target / "state", 2999):
        assert run("snapshot", "verify", target / "manifest").exit_code == 0
        for path in (target, target / "state"):
            result = run("snapshot", "verify", path)
            assert result.exit_code == 1
            assert result.stderr.startswith(f"rafterd: {target / 'state'}, offset 0: chunk 0 ")
    with flipped(target / "manifest", 60):
        result = run("snapshot", "verify", target)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"rafterd: {target / 'manifest'}, offset ")


def test_file_that_is_no_part_of_a_snapshot_is_refused(node: Path) -> None:
    other = snapshot_of(node) / "other"
    other.write_bytes(b"")
    assert run("snapshot", "verify", other).exit_code == 2
    assert run("snapshot", "verify", other.parent).exit_code == 1


def test_report_that_is_cut_says_so(node: Path) -> None:
    for number in range(FAULTS_MAX + 5):
        (snapshot_of(node) / f"other{number}").write_bytes(b"")
    result = run("snapshot", "verify", "--all", snapshot_of(node))
    lines = result.stderr.splitlines()
    assert len(lines) == FAULTS_MAX + 1
    assert lines[-1].startswith("rafterd: there may be more")


# ---- for real --------------------------------------------------------------------------------


def test_program_finds_damage_in_the_directory_of_a_node(node: Path) -> None:
    command = [sys.executable, "-m", "rafterd", "wal", "verify", str(node)]
    sound = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.endswith(f"{node}: ok\n")
    path = segment_files(shard(node, 1))[0]
    offset = records_of(path)[1][0]
    with flipped(path, offset):
        bad = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert bad.returncode == 1
    assert bad.stderr.startswith(f"rafterd: {path}, offset {offset}: no valid record prefix")
