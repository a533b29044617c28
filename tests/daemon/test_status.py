import pytest

from rafterd.config import Config, load_config
from rafterd.shared import GroupState, GroupWord, SharedState
from rafterd.status import banner, status_line


def load(**settings: str) -> Config:
    overrides = {"node.shards": "2"} | {k.replace("__", "."): v for k, v in settings.items()}
    return load_config(overrides=overrides).config


def test_the_status_line_counts_shards_groups_and_leaders() -> None:
    config, shared = load(), SharedState(2, 8)
    for group in range(1, 6):
        shared.set_group(group, GroupWord.STATE, GroupState.SERVING)
        shared.set_route(group, 1 if group < 4 else 2, 1)
    shared.set_group(2, GroupWord.COMMIT, 10)
    shared.set_group(2, GroupWord.APPLIED, 7)
    line = status_line(config, shared, config.local_groups(), 1)
    assert line == "shards 1/2, groups 5/8, leaders 3, applied lag 3"


@pytest.mark.parametrize(
    ("listen", "command", "endpoint"),
    [
        ("127.0.0.1:7379", "redis-cli -p 7379 get greeting", "127.0.0.1:7379"),
        ("0.0.0.0:7000", "redis-cli -p 7000 get greeting", "127.0.0.1:7000"),
        ("[::1]:7000", "redis-cli -h ::1 -p 7000 get greeting", "[::1]:7000"),
        ("127.0.0.2:7000", "redis-cli -h 127.0.0.2 -p 7000 get greeting", "127.0.0.2:7000"),
    ],
)
def test_the_banner_shows_commands_that_reach_the_node(
    listen: str, command: str, endpoint: str
) -> None:
    text = banner(load(client__listen=listen, client__insecure="true"))
    assert f"  {command}\n" in text
    assert f"  rafter-cli --endpoints {endpoint} put greeting hello\n" in text


def test_the_banner_names_the_ports_of_the_shards() -> None:
    assert "(shards alone on 7380 to 7381)" in banner(load())
    assert "(shards alone on 7380)" in banner(load(node__shards="1"))
