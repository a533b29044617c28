"""What a configuration may hold, and what the error says about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from rafter_core import NUMBER_MAX, Config, ConfigError, ReadMode


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
        ("applied", 1 << 63, "applied is 9223372036854775808"),
        ("node_id", -1, "node_id is -1"),
        ("heartbeat_ticks", 10, "election_timeout_ticks is 10: it must be greater"),
        ("priority", -1, "priority is -1: it must not be negative"),
        ("priority", 1 << 63, "priority is"),
        ("quiesce_after_ticks", -1, "quiesce_after_ticks is -1: it must not be negative"),
        ("quiesce_after_ticks", 1, "must be 0 or greater than election_timeout_ticks \\(10\\)"),
        ("quiesce_after_ticks", 10, "must be 0 or greater than election_timeout_ticks"),
        ("check_quorum", False, 'read_mode is "lease": this needs check_quorum'),
        ("quiesce_after_ticks", 30, "quiesce_after_ticks is 30: this needs check_quorum"),
    ],
)
def test_an_impossible_value_is_named(field: str, value: int, text: str) -> None:
    fields: dict[str, Any] = {"node_id": 1, field: value}
    if "needs check_quorum" in text:
        fields["check_quorum"] = False
    if "lease" in text:
        fields["read_mode"] = ReadMode.LEASE
    with pytest.raises(ConfigError, match=text):
        Config(**fields).validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node_id", NUMBER_MAX),
        ("heartbeat_ticks", 9),
        ("election_timeout_ticks", 2),
        ("message_bytes_max", 16 << 20),
        ("inflight_messages_max", 1),
        ("inflight_bytes_max", 1 << 20),
        ("uncommitted_bytes_max", 1),
        ("committed_bytes_per_ready_max", 1),
        ("pending_reads_max", 1),
        ("applied", NUMBER_MAX),
        ("priority", NUMBER_MAX),
        ("quiesce_after_ticks", 11),
        ("check_quorum", False),
        ("read_mode", ReadMode.LEASE),
    ],
)
def test_the_ends_of_each_range_are_valid(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"node_id": 1, field: value}
    Config(**fields).validate()


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Config(node_id=1).priority = 3  # type: ignore[misc]
