"""rafterd: the server. Everything impure meets here; see docs/operations.md for how to run it."""

__version__ = "0.1.0"
