"""Tests of rafter_storage.errors."""

from pathlib import Path

from rafter_storage import errors
from rafter_storage.errors import CorruptionError, Damage, StorageError

DAMAGE = Damage(Path("shards/00001/wal/7.log"), 4096, "a byte is wrong")


def test_corruption_names_file_offset_reason_and_group() -> None:
    text = str(CorruptionError(DAMAGE, 5))
    assert text == "shards/00001/wal/7.log, offset 4096: a byte is wrong (group 5 is affected)"


def test_corruption_of_no_single_group_says_so() -> None:
    assert "every group of this shard is affected" in str(CorruptionError(DAMAGE, None))


def test_every_error_is_a_storage_error() -> None:
    found = [getattr(errors, name) for name in errors.__all__ if name != "Damage"]
    assert all(issubclass(error, StorageError) for error in found)
