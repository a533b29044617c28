"""Logging of a node: one line for each event to standard error, logfmt or JSON.

Modules log with the standard library: an event in words, and its facts in `extra`:

    logger.warning("shard died", extra={"shard": 2, "status": "exit 1"})

A line is one write of at most LINE_BYTES_MAX bytes, so that the lines of the supervisor and its
shards never mix. Under systemd (JOURNAL_STREAM) lines carry the priority and leave the time to the
journal.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping

LINE_BYTES_MAX = 4096
"""PIPE_BUF: a write up to this size is atomic on a pipe."""

STANDARD_ERROR = 2

_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """Formats a record as one line of logfmt or JSON."""

    def __init__(self, form: str, *, is_journal: bool, context: Mapping[str, object]) -> None:
        super().__init__()
        self._is_json = form == "json"
        self._is_journal = is_journal
        self._context = dict(context)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
        fields: dict[str, object] = {}
        if not self._is_journal:
            fields["ts"] = _timestamp(record.created)
        fields["level"] = record.levelname.lower()
        fields |= self._context
        fields["event"] = record.getMessage()
        fields["logger"] = record.name
        for name, value in vars(record).items():
            if name not in _STANDARD_FIELDS:
                fields[name] = value
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        line = _json(fields) if self._is_json else _logfmt(fields)
        return f"<{_priority(record.levelno)}>{line}" if self._is_journal else line


class LineHandler(logging.Handler):
    """Writes each record with one system call to a descriptor; a full or closed pipe loses it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, cut to LINE_BYTES_MAX."""
        try:
            data = self.format(record).encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - a bad argument of one call must not end the process
            data = f"level=error event=unprintable logger={record.name}".encode()
        if len(data) >= LINE_BYTES_MAX:
            data = data[: LINE_BYTES_MAX - 5] + b" ..."
        try:
            os.write(self._descriptor, data + b"\n")
        except OSError:
            return


def configure(
    level: str, form: str, context: Mapping[str, object], descriptor: int = STANDARD_ERROR
) -> None:
    """Set up logging of this process; called again in each child, with its shard in `context`."""
    handler = LineHandler(descriptor)
    handler.setFormatter(
        LineFormatter(form, is_journal=_is_journal(os.environ, descriptor), context=context)
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    """Change the level of the whole process: debug, info, warning or error."""
    logging.getLogger().setLevel(level.upper())


def _is_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Whether the descriptor is the journal's stream, as systemd tells us to check."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def _timestamp(seconds: float) -> str:
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{milliseconds:03d}Z"


def _priority(level: int) -> int:
    """Syslog's number for a level, as in sd-daemon(3)."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def _logfmt(fields: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_logfmt_value(value)}" for name, value in fields.items())


def _logfmt_value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _json(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, ensure_ascii=False, default=str, separators=(",", ":"))
