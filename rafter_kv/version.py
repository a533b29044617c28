"""What this server says it is. Clients choose features by `REDIS_VERSION`."""

from importlib import metadata
from typing import Final

REDIS_VERSION: Final = "7.2.4"
"""The Redis whose commands, replies and error texts are spoken here."""


def _rafter_version() -> str:
    try:
        return metadata.version("rafter")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


RAFTER_VERSION: Final = _rafter_version()
