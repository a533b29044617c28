from __future__ import annotations

from typing import Any

import pytest

from rafter_core import Config, ConfigError


def test_defaults_are_valid() -> None:
    Config(node_id=1).validate()


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("node_id", 0, "node_id is 0: it must be from 1"),
        ("node_id", 1 << 63, "node_id is"),
        ("heartbeat_ticks", 0, "heartbeat_ticks is 0: it must be at least 1"),
        ("election_timeout_ticks", 1, "must be greater than heartbeat_ticks \\(1\\)"),
        ("message_bytes_max", 0, "message_bytes_max is 0"),
        ("inflight_messages_max", 0, "inflight_messages_max is 0"),
        ("inflight_bytes_max", 5, "at least message_bytes_max"),
        ("uncommitted_bytes_max", 0, "uncommitted_bytes_max is 0"),
        ("committed_bytes_per_ready_max", 0, "committed_bytes_per_ready_max is 0"),
        ("pending_reads_max", 0, "pending_reads_max is 0"),
        ("applied", -1, "applied is -1"),
    ],
)
def test_an_impossible_value_is_named(field: str, value: int, text: str) -> None:
    fields: dict[str, Any] = {"node_id": 1, field: value}
    with pytest.raises(ConfigError, match=text):
        Config(**fields).validate()
