import json
import logging
import os
import re
from collections.abc import Iterator

import pytest

from rafterd import logs


class Written:
    """A pipe in the place of standard error."""

    def __init__(self) -> None:
        self.reader, self.descriptor = os.pipe()
        os.set_blocking(self.reader, False)

    def __call__(self) -> str:
        """Return what was written since the last call."""
        try:
            return os.read(self.reader, 1 << 16).decode()
        except BlockingIOError:
            return ""


@pytest.fixture
def written() -> Iterator[Written]:
    root = logging.getLogger()
    old_handlers, old_level = root.handlers[:], root.level
    written = Written()
    yield written
    root.handlers[:] = old_handlers
    root.setLevel(old_level)
    os.close(written.reader)
    os.close(written.descriptor)


def test_a_line_of_logfmt_holds_the_event_and_its_facts(written: Written) -> None:
    logs.configure("info", "logfmt", {"node": 1, "shard": 0}, written.descriptor)
    logging.getLogger("rafterd.x").warning("disk is slow", extra={"seconds": 1.5, "path": "a b"})
    assert re.fullmatch(
        r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=warning node=1 shard=0 "
        r'event="disk is slow" logger=rafterd\.x seconds=1\.5 path="a b"\n',
        written(),
    )


def test_a_line_of_json_holds_the_same(written: Written) -> None:
    logs.configure("info", "json", {"node": 1}, written.descriptor)
    logging.getLogger("x").error("broken %s", "pipe", extra={"value": {1}})
    fields = json.loads(written())
    assert fields | {"ts": ""} == {
        "ts": "", "level": "error", "node": 1, "event": "broken pipe", "logger": "x",
        "value": "{1}",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_no_value_can_forge_a_line(written: Written, form: str) -> None:
    logs.configure("info", form, {}, written.descriptor)
    logging.getLogger("x").info('a\nlevel=error "b\x1b', extra={"value": "c\nd"})
    text = written()
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_the_level_holds_and_can_be_changed(written: Written) -> None:
    logs.configure("warning", "logfmt", {}, written.descriptor)
    logging.getLogger("x").info("quiet")
    assert written() == ""
    logs.set_level("debug")
    logging.getLogger("x").debug("loud")
    assert "event=loud" in written()


def test_an_exception_stays_on_its_line(written: Written) -> None:
    logs.configure("info", "logfmt", {}, written.descriptor)
    try:
        raise RuntimeError("here")
    except RuntimeError:
        logging.getLogger("x").exception("failed")
    text = written()
    assert text.count("\n") == 1
    assert "RuntimeError: here" in text


def test_a_line_is_one_write_of_bounded_size(written: Written) -> None:
    logs.configure("info", "logfmt", {}, written.descriptor)
    logging.getLogger("x").info("x" * 10_000)
    text = written()
    assert len(text) == logs.LINE_BYTES_MAX
    assert text.endswith(" ...\n")


def test_bad_arguments_of_one_call_do_no_harm(written: Written) -> None:
    logs.configure("info", "logfmt", {}, written.descriptor)
    logging.getLogger("x").info("%d", "not a number")
    assert written() == "level=error event=unprintable logger=x\n"


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)],
)
def test_the_journal_gets_priorities_and_keeps_its_own_time(
    written: Written, monkeypatch: pytest.MonkeyPatch, level: str, priority: int
) -> None:
    status = os.fstat(written.descriptor)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    logs.configure("debug", "logfmt", {}, written.descriptor)
    getattr(logging.getLogger("x"), level)("hello")
    assert written() == f"<{priority}>level={level} event=hello logger=x\n"


def test_a_journal_that_is_not_ours_is_none(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    logs.configure("info", "logfmt", {}, written.descriptor)
    logging.getLogger("x").info("hello")
    assert written().startswith("ts=")


def test_a_closed_or_full_pipe_loses_lines_and_nothing_else(written: Written) -> None:
    os.set_blocking(written.descriptor, False)
    logs.configure("info", "logfmt", {}, written.descriptor)
    for _ in range(100):
        logging.getLogger("x").info("x" * 3000)
    assert written().startswith("ts=")
