import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields

from rafterd.config import load_config
from rafterd.config_describe import describe_type, to_toml
from rafterd.config_schema import ClusterSection, Config


def test_the_shown_configuration_means_the_same_when_read_again(tmp_path: Path) -> None:
    overrides = {
        "node.id": "2",
        "node.data_dir": 'a "quoted" \\ path\t\x7f é',
        "cluster.initial": "1@127.0.0.1:17279,2@[::1]:17379",
        "peer.listen": "[::1]:17379",
        "node.drain_seconds": "0.5",
    }
    loaded = load_config(overrides=overrides)
    path = tmp_path / "shown.toml"
    path.write_text(to_toml(loaded.config, loaded.origins), encoding="utf-8")
    assert load_config(path).config == loaded.config


@given(text=st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_any_string_survives_toml(text: str) -> None:
    config = load_config(overrides={"node.data_dir": text}).config
    document = to_toml(config, {})
    assert tomllib.loads(document)["node"]["data_dir"] == config.node.data_dir


def test_what_is_not_a_default_names_its_origin() -> None:
    loaded = load_config(environment={"RAFTERD_NODE__ID": "7"})
    lines = to_toml(loaded.config, loaded.origins).splitlines()
    assert "id = 7  # environment RAFTERD_NODE__ID" in lines
    assert 'level = "info"' in lines


def test_every_key_can_be_described() -> None:
    for section in fields(Config):
        keys = fields(section.type)
        assert keys
        assert all(describe_type(key.type) for key in keys)


@pytest.mark.parametrize("undescribed", [dict[str, int], ClusterSection])
def test_a_key_of_a_new_kind_fails_loudly(undescribed: object) -> None:
    with pytest.raises(AssertionError, match="undescribed"):
        describe_type(undescribed)
