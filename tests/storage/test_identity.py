"""Tests of rafter_storage.identity."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from rafter_storage.data_directory import DataDirectory
from rafter_storage.errors import DataDirectoryError, IdentityError
from rafter_storage.identity import Identity, cluster_id_of
from tests.storage.support import EIO, FaultyFiles, entries, open_manager
from tests.storage.support import append as append_entries

CONFIGURED: dict[str, Any] = {
    "cluster_name": "demo",
    "node_id": 1,
    "groups": 8,
    "replication": 3,
    "shards": 2,
}


def load(path: Path, files: FaultyFiles | None = None, **changes: Any) -> Identity:
    directory = DataDirectory.acquire(path, files=files or FaultyFiles())
    try:
        return Identity.load_or_create(directory, **{**CONFIGURED, **changes})
    finally:
        directory.release()


def test_first_start_draws_an_identity_and_later_ones_find_it(tmp_path: Path) -> None:
    created = load(tmp_path / "n1")
    assert created.cluster_id == cluster_id_of("demo") != 0
    assert created.incarnation
    assert created._replace(incarnation=0) == Identity(cluster_id_of("demo"), "demo", 1, 0, 8, 3, 2)
    assert load(tmp_path / "n1") == created
    assert (tmp_path / "n1/identity").stat().st_mode & 0o777 == 0o600


def test_another_directory_is_another_incarnation(tmp_path: Path) -> None:
    assert load(tmp_path / "a").incarnation != load(tmp_path / "b").incarnation


def test_cluster_id_may_be_given(tmp_path: Path) -> None:
    assert load(tmp_path / "n1", cluster_id=42).cluster_id == 42
    assert load(tmp_path / "n1", cluster_id=42).cluster_id == 42


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster_name": "other"}, "cluster_name is 'demo', configured is 'other'"),
        ({"cluster_id": 7}, r"cluster_id is \d+, configured is 7"),
        ({"node_id": 2}, "node_id is 1, configured is 2"),
        ({"groups": 16}, "groups is 8, configured is 16"),
        ({"replication": 1}, "replication is 3, configured is 1"),
        (
            {"shards": 4},
            "changes of node.shards between starts are not supported yet: .*has 2, conf.* is 4",
        ),
    ],
)
def test_directory_of_another_node_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    load(tmp_path / "n1")
    with pytest.raises(IdentityError, match=message):
        load(tmp_path / "n1", **changes)
    load(tmp_path / "n1")


def test_every_flipped_byte_is_detected_or_harmless(tmp_path: Path) -> None:
    created = load(tmp_path / "n1")
    path = tmp_path / "n1/identity"
    data = path.read_bytes()
    for position in range(len(data)):
        for mask in (0x01, 0x80):
            flipped = bytearray(data)
            flipped[position] ^= mask
            path.write_bytes(flipped)
            with contextlib.suppress(IdentityError):
                assert load(tmp_path / "n1") == created


def test_every_shortened_identity_is_detected(tmp_path: Path) -> None:
    load(tmp_path / "n1")
    path = tmp_path / "n1/identity"
    data = path.read_bytes()
    for length in range(len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(IdentityError, match="damaged"):
            load(tmp_path / "n1")


def test_newer_format_is_refused_before_anything_else_is_read(tmp_path: Path) -> None:
    load(tmp_path / "n1")
    (tmp_path / "n1/identity").write_text('{"format": 2, "anything": []}')
    with pytest.raises(IdentityError, match="identity has format 2, this program reads up to 1"):
        load(tmp_path / "n1")


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "1"}', '{"format": 1}', "null"])
def test_json_that_is_no_identity_is_refused(tmp_path: Path, text: str) -> None:
    load(tmp_path / "n1")
    (tmp_path / "n1/identity").write_text(text)
    with pytest.raises(IdentityError, match="damaged"):
        load(tmp_path / "n1")


def test_identity_whose_checksum_holds_but_whose_fields_do_not_is_refused(tmp_path: Path) -> None:
    load(tmp_path / "n1")
    fields: dict[str, object] = {"format": 1, "cluster_id": "not a number"}
    text = json.dumps(fields, sort_keys=True).encode()
    fields["checksum"] = f"{xxh3_64_intdigest(text):016x}"
    (tmp_path / "n1/identity").write_text(json.dumps(fields))
    with pytest.raises(IdentityError, match="is not an identity"):
        load(tmp_path / "n1")


def test_words_of_64_bits_are_kept_where_no_reader_rounds_them(tmp_path: Path) -> None:
    created = load(tmp_path / "n1")
    fields = json.loads((tmp_path / "n1/identity").read_text())
    assert fields["incarnation"] == f"{created.incarnation:016x}"
    assert fields["cluster_id"] == f"{created.cluster_id:016x}"


def test_places_of_the_logs_are_durable_before_the_identity_is(tmp_path: Path) -> None:
    files = FaultyFiles()
    load(tmp_path / "n1", files)
    assert (tmp_path / "n1/shards/00001/wal").is_dir()
    assert files.calls[-3:] == ["sync_data", "rename", "sync_directory"]
    assert files.calls.count("sync_directory") == 6


@pytest.mark.parametrize(
    ("method", "number"),
    [("sync_directory", n) for n in range(1, 7)]
    + [("open", 1), ("pwritev", 1), ("sync_data", 1), ("rename", 1)],
)
def test_first_start_that_failed_at_any_step_can_be_repeated(
    tmp_path: Path, method: str, number: int
) -> None:
    files = FaultyFiles()
    files.fail_at[method, number] = EIO
    with pytest.raises(DataDirectoryError, match="cannot read or make the identity"):
        load(tmp_path / "n1", files)
    created = load(tmp_path / "n1")
    assert load(tmp_path / "n1") == created


def test_missing_log_directory_is_a_loss_and_not_a_first_start(tmp_path: Path) -> None:
    load(tmp_path / "n1")
    (tmp_path / "n1/shards/00001/wal").rmdir()
    with pytest.raises(DataDirectoryError, match="shards/00001/wal is missing"):
        load(tmp_path / "n1")


def test_missing_identity_over_logs_is_not_drawn_anew(tmp_path: Path) -> None:
    load(tmp_path / "n1")
    manager = open_manager(tmp_path / "n1/shards/00001")
    append_entries(manager, 1, entries(1, 1))
    manager.close()
    (tmp_path / "n1/identity").unlink()
    with pytest.raises(DataDirectoryError, match=r"identity is missing, but .*0001\.log exists"):
        load(tmp_path / "n1")


def test_unreadable_identity_is_a_clear_error(tmp_path: Path) -> None:
    load(tmp_path / "n1")
    files = FaultyFiles()
    files.fail_at["pread", 1] = EIO
    with pytest.raises(DataDirectoryError, match=r"cannot read or make the identity .*Input"):
        load(tmp_path / "n1", files)
