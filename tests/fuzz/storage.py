"""What storage decodes that comes from another node: the manifest of a snapshot."""

import random
import struct

from xxhash import xxh3_64_intdigest

from rafter_core.membership import Membership
from rafter_storage.snapshot_manifest import (
    MANIFEST_FORMAT,
    InvalidManifest,
    Manifest,
    SnapshotFile,
    decode_manifest,
    encode_manifest,
    manifest_fault,
)
from tests.fuzz.engine import Target

GROUP, INDEX = 7, 100
_HEADER = struct.Struct("<8sIIQQ")
_WORD = struct.Struct("<Q")


def body_seeds(generator: random.Random) -> list[bytes]:
    """Return the bodies of manifests: without files, with empty, small and long ones."""
    seeds = []
    for count in range(40):
        files = tuple(
            SnapshotFile(f"file-{number}", size, 100, bytes(8 * -(-size // 100)), size)
            for number, size in enumerate(
                generator.choices((0, 1, 100, 101, 1234), k=generator.randrange(5))
            )
        )
        nodes = generator.sample(range(1, 100), 5)
        membership = Membership(tuple(sorted(nodes[:3])), learners=tuple(sorted(nodes[3:])))
        manifest = Manifest(GROUP, INDEX, 3, membership, count, files, is_imported=count % 2 == 0)
        seeds.append(encode_manifest(manifest)[_HEADER.size + _WORD.size :])
    return seeds


def with_header(body: bytes) -> bytes:
    """Return a file with this body, its length and checksum right."""
    header = _HEADER.pack(b"RAFTRSNP", MANIFEST_FORMAT, len(body), GROUP, INDEX)
    return header + _WORD.pack(xxh3_64_intdigest(body, seed=xxh3_64_intdigest(header))) + body


def check_manifest(data: bytes) -> bool:
    """Decode a manifest; what comes back is sound and encodes to one that is the same."""
    try:
        manifest = decode_manifest(data, GROUP)
    except InvalidManifest:
        return False
    assert manifest_fault(manifest) is None
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert sum(
        file.chunk_length(n) for file in manifest.files for n in range(file.chunk_count)
    ) == (manifest.size_bytes)
    return True


TARGETS = [Target("snapshot manifests", body_seeds, check_manifest, wrap=with_header)]
