"""Receiving a snapshot: written against the manifest that the sender gave before.

The order is: manifest, synced; the temporary directory and those above synced; files, each synced;
the temporary directory synced; renamed to the published name; the directories above synced. So
what a crash leaves says of itself what it is to become, and the next life of the process goes on
with it: ``SnapshotReceiver.recover``.
"""

from xxhash import xxh3_64_intdigest

from rafter_core.errors import InvariantError
from rafter_storage.errors import SnapshotRefused
from rafter_storage.file_system import FileSystem
from rafter_storage.snapshot_files import ChunkWriter, write_manifest
from rafter_storage.snapshot_manifest import Manifest, SnapshotFile, manifest_fault
from rafter_storage.snapshot_reader import SnapshotInfo
from rafter_storage.snapshot_writer import SnapshotDraft, SnapshotPaths

__all__ = ["SnapshotReceiver"]


class SnapshotReceiver(SnapshotDraft):
    """Writes the snapshot that another node sends. As for any draft, one thread at a time.

    Each chunk is checked before it is written, so damage on the way is found when it happens, and
    what is published is byte for byte what the sender had. Chunks come in order: files as in the
    manifest, chunks by number. After a broken link ``next_chunk`` tells where to go on. With
    ``is_kept`` there is a draft of this manifest from before a restart, to ``recover`` first.
    """

    def __init__(
        self,
        files: FileSystem,
        paths: SnapshotPaths,
        manifest: Manifest,
        *,
        is_kept: bool = False,
    ) -> None:
        fault = manifest_fault(manifest)
        if fault is not None:
            raise SnapshotRefused(f"cannot receive by a manifest that is none: {fault}")
        super().__init__(files, paths, manifest)
        self._file_number = 0
        self._is_made = is_kept
        self._is_recovering = is_kept

    @property
    def next_chunk(self) -> tuple[str, int] | None:
        """The file and number of the chunk that is due; None once all chunks are there."""
        number = self._chunks_in_current()
        for file in self._manifest.files[self._file_number :]:
            if number < file.chunk_count:
                return file.name, number
            number = 0
        return None

    @property
    def received(self) -> dict[str, int]:
        """How many chunks of each file are there: all before it, none after it."""
        counts = {}
        for number, file in enumerate(self._manifest.files):
            if number < self._file_number:
                counts[file.name] = file.chunk_count
            else:
                counts[file.name] = self._chunks_in_current() if number == self._file_number else 0
        return counts

    def recover(self, bytes_max: int) -> bool:
        """Take over what a draft from before a restart has, some ``bytes_max`` a call.

        Call it before anything else, as long as it returns True. Nothing is believed, sizes least:
        a chunk counts if its bytes match its checksum and all before it do. What counts is written
        once more, so that ``finish`` can make it durable. Raises ``SnapshotFailed``, after which
        the draft is gone.
        """
        with self._guarded("recover"):
            if self._is_recovering and not self._take_over(bytes_max):
                self._remove_behind()
                write_manifest(self._files, self.paths.temporary, self._manifest, is_there=True)
                self._is_recovering = False
            return self._is_recovering

    def write_chunk(self, name: str, number: int, data: bytes | memoryview) -> None:
        """Write the chunk that is due. Durable after ``finish``.

        Raises ``SnapshotRefused`` for another chunk and for other bytes than the manifest's:
        nothing has changed then, the right chunk may follow. Raises ``SnapshotFailed``, after
        which the draft is gone.
        """
        with self._guarded("write"):
            self._check_recovered()
            if self.next_chunk != (name, number):
                raise SnapshotRefused(
                    f"chunk {number} of {name[:300]!r} came, {self.next_chunk} is due"
                )
            self._end_whole_files()
            file = self._manifest.files[self._file_number]
            if len(data) != file.chunk_length(number):
                raise SnapshotRefused(
                    f"chunk {number} of {name} has {len(data)} bytes, "
                    f"expected {file.chunk_length(number)}"
                )
            if xxh3_64_intdigest(data) != file.chunk_checksum(number):
                raise SnapshotRefused(f"chunk {number} of {name} does not match its checksum")
            current = self._current or self._open(file.name, file.chunk_bytes)
            current.write(data)

    def finish(self) -> SnapshotInfo:
        """Publish the snapshot once all chunks are there; as ``SnapshotWriter.finish``.

        Raises ``SnapshotRefused`` before, which changes nothing.
        """
        with self._guarded("finish"):
            self._check_recovered()
            if self.next_chunk is not None:
                raise SnapshotRefused(f"the snapshot is not whole, {self.next_chunk} is due")
            self._end_whole_files()
            self._make()
            return self._publish(self._manifest)

    def leave(self) -> None:
        """Give it up and leave on disk what came, for the next start. May be called again.

        After ``finish`` it does nothing. Raises ``OSError``.
        """
        if not self.is_over:
            self._is_aborted = True
            self._close_current()

    def _make(self) -> None:
        if self._is_made:
            return
        super()._make()
        write_manifest(self._files, self.paths.temporary, self._manifest)
        for directory in (self.paths.temporary, *self.paths.parents):
            self._files.sync_directory(directory)

    def _check_recovered(self) -> None:
        if self._is_recovering:
            raise SnapshotRefused(f"what is in {self.paths.temporary} has not been looked at")

    def _chunks_in_current(self) -> int:
        if self._current is None:
            return 0
        return self._current.chunks_begun

    def _end_whole_files(self) -> None:
        """Close every file in turn that has all its chunks; one without any has them at once."""
        while self._file_number < len(self._manifest.files):
            file = self._manifest.files[self._file_number]
            if self._chunks_in_current() < file.chunk_count:
                return
            self._end(file, self._current or self._open(file.name, file.chunk_bytes))

    def _end(self, file: SnapshotFile, current: ChunkWriter) -> None:
        if current.finish() != file:
            raise InvariantError(
                f"{file.name} is not what the manifest says, though each of its chunks is"
            )
        self._current = None
        self._file_number += 1

    def _take_over(self, bytes_left: int) -> bool:
        """Take over chunks up to so many bytes; False if the next one is not there."""
        while bytes_left > 0 and self._file_number < len(self._manifest.files):
            file = self._manifest.files[self._file_number]
            if self._current is None:
                path = self.paths.temporary / file.name
                if self._files.status(path) is None:
                    return False
                self._current = ChunkWriter(self._files, path, file.chunk_bytes, is_there=True)
            number = self._current.chunks_begun
            if number == file.chunk_count:
                self._end(file, self._current)
                continue
            length = file.chunk_length(number)
            if not self._current.take_over(length, file.chunk_checksum(number)):
                return False
            bytes_left -= length
        return bytes_left <= 0

    def _remove_behind(self) -> None:
        """Remove the files behind the one that goes on: they are to be written anew."""
        first = self._file_number + (self._current is not None)
        for file in self._manifest.files[first:]:
            path = self.paths.temporary / file.name
            if self._files.status(path) is not None:
                self._files.unlink(path)
