"""`rafterd cert` as it is typed."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rafter_transport.tls import PeerTls, TlsFiles
from rafterd.main import main


def rafterd(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["cert", *map(str, arguments)])


def test_the_files_are_printed_and_work(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    result = rafterd("authority", tls)
    assert (result.exit_code, result.output) == (0, f"{tls}/ca.crt\n{tls}/ca.key\n")
    result = rafterd("node", tls, "--id", 3, "--host", "127.0.0.1")
    assert (result.exit_code, result.output) == (0, f"{tls}/node-3.crt\n{tls}/node-3.key\n")
    PeerTls(3, TlsFiles("peer", tls / "node-3.crt", tls / "node-3.key", tls / "ca.crt"))
    result = rafterd("node", tls, "--id", 3, "--name-pattern", "n{id}.blue")
    assert (result.exit_code, result.output) == (0, f"{tls}/n3.blue.crt\n{tls}/n3.blue.key\n")
    result = rafterd("client", tls, "app")
    assert (result.exit_code, result.output) == (0, f"{tls}/app.crt\n{tls}/app.key\n")


def test_what_is_there_stays_and_the_exit_code_says_so(tmp_path: Path) -> None:
    assert rafterd("authority", tmp_path).exit_code == 0
    result = rafterd("authority", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == f"rafterd: {tmp_path}/ca.key: is there already, and stays as it is\n"


@pytest.mark.parametrize(
    "arguments",
    [("--id", "0"), ("--id", "65536"), (), ("--id", "1", "--name-pattern", "node"),
     ("--id", "1", "--days", "0")],
)  # fmt: skip
def test_wrong_usage_is_told_before_anything_is_made(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert rafterd("authority", tmp_path).exit_code == 0
    assert rafterd("node", tmp_path, *arguments).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "ca.key"]


@pytest.mark.parametrize(
    ("name", "pattern", "code"),
    [
        ("node-7", "node-{id}", 2),
        ("NODE-12345", "node-{id}", 2),
        ("node-app", "node-{id}", 0),
        ("node-7", "{id}.nodes", 0),
        ("7.nodes", "{id}.nodes", 2),
        ("7xnodes", "{id}.nodes", 0),
    ],
)
def test_no_client_is_called_as_a_node(tmp_path: Path, name: str, pattern: str, code: int) -> None:
    assert rafterd("authority", tmp_path).exit_code == 0
    result = rafterd("client", tmp_path, name, "--name-pattern", pattern)
    assert result.exit_code == code
    assert (tmp_path / f"{name}.crt").exists() is (code == 0)
