"""All targets of `make fuzz`."""

from tests.core import fuzz_serializer
from tests.fuzz import daemon, storage, transport

TARGETS = [
    *fuzz_serializer.TARGETS,
    *storage.TARGETS,
    *transport.TARGETS,
    *daemon.TARGETS,
]
