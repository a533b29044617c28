"""Short ways to make files on the fake file system, and to see what crashes leave of them."""

import os
import random
from collections.abc import Callable
from typing import TypeVar

from xxhash import xxh3_64

from tests.storage.fake_file_system import CrashMode, FakeFileSystem

_Result = TypeVar("_Result")

NEW = os.O_RDWR | os.O_CREAT
PIECE = 512
SEEDS = range(200)


def created(files: FakeFileSystem, name: str, data: bytes = b"", *, is_settled: bool = True) -> int:
    """A descriptor of a new file, which is durable unless told otherwise."""
    descriptor = files.open(files.base / name, NEW)
    if data:
        files.pwritev(descriptor, [data], 0)
    if is_settled:
        files.settle()
    return descriptor


def after(
    files: FakeFileSystem, mode: CrashMode, seed: int = 0, name: str = "file"
) -> bytes | None:
    """A file's bytes after a crash; None if it is gone."""
    survivor = files.crash(mode, random.Random(seed))
    path = survivor.base / name
    return survivor.contents(path) if survivor.status(path) else None


def all_after(files: FakeFileSystem, mode: CrashMode, name: str = "file") -> set[bytes | None]:
    return {after(files, mode, seed, name) for seed in SEEDS}


def names_after(files: FakeFileSystem, mode: CrashMode) -> set[tuple[str, ...]]:
    """The sets of names in the base directory that crashes leave."""
    survivors = [files.crash(mode, random.Random(seed)) for seed in SEEDS]
    return {tuple(survivor.names(survivor.base)) for survivor in survivors}


def pieces(letters: str) -> bytes:
    return b"".join(letter.encode() * PIECE for letter in letters)


def fingerprint(files: FakeFileSystem) -> int:
    """Return a number that is equal for equal disks alone, as far as they are read."""
    state = xxh3_64()
    for name, image in files.images():
        state.update(f"{name} {'is a directory' if image is None else len(image)}\n".encode())
        state.update(image or b"")
    return state.intdigest()


def once_per_disk(
    look: Callable[[FakeFileSystem], _Result],
) -> Callable[[FakeFileSystem], _Result]:
    """Let one look at each disk: at an equal one it would see the same.

    It must depend on nothing but what can be read, and not on what is pending: no crash.
    """
    seen: dict[int, _Result] = {}

    def look_once(files: FakeFileSystem) -> _Result:
        disk = fingerprint(files)
        if disk not in seen:
            seen[disk] = look(files)
        return seen[disk]

    return look_once


def as_letters(data: bytes | None) -> str:
    """The opposite of ``pieces``; a piece of zeros is a dot."""
    assert data is not None
    letters = ""
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        assert piece == piece[:1] * len(piece), "a piece is a mix"
        letters += "." if piece[0] == 0 else chr(piece[0])
    return letters
