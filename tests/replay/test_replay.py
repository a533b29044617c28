"""All transcripts pass, and what is not as expected is reported."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from rafter_core import quorum
from tests.replay import quorum_harness
from tests.replay.__main__ import main
from tests.replay.runner import normalised, run_file, transcripts

OURS = Path(__file__).parent / "transcripts"
ETCD = Path(__file__).parents[3] / "shared" / "traces" / "etcd-raft"


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.txt"))


def assert_passes(path: Path) -> None:
    result = run_file(path)
    assert result.is_passed, result.failure


@pytest.mark.parametrize("path", files(OURS), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_our_transcripts_pass(path: Path) -> None:
    assert_passes(path)


@pytest.mark.parametrize("path", files(ETCD), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_transcripts_of_etcd_pass(path: Path) -> None:
    assert_passes(path)


def test_transcripts_of_etcd_are_at_hand() -> None:
    if not files(ETCD):
        pytest.skip("the folder shared/traces/etcd-raft beside this repository is absent")


# ---- the harness finds what is wrong ---------------------------------------------------------


def replay(*paths: Path) -> tuple[int, str]:
    output = io.StringIO()
    return main([str(path) for path in paths], output), output.getvalue()


def replay_text(folder: Path, text: str) -> tuple[int, str]:
    path = folder / "t.txt"
    path.write_text(text, encoding="utf-8")
    return replay(path)


def test_a_wrong_expectation_fails_with_a_diff(tmp_path: Path) -> None:
    text = "# A comment.\n\nadd-nodes 1\n----\nok\n\nraft-state\n----\n1: StateLeader\n"
    code, output = replay_text(tmp_path, text)
    path = tmp_path / "t.txt"
    assert code == 1
    assert output == (
        f"FAIL {path}\n"
        f"{path}:7: raft-state\n"
        "--- expected\n"
        "+++ actual\n"
        "@@ -1 +1 @@\n"
        "-1: StateLeader\n"
        "+1: StateFollower (Non-Voter) Term:0 Lead:0\n"
        "0 passed, 1 failed\n"
    )


def test_one_failure_among_passes_fails_all(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "good.txt").write_text("vote\n----\nVoteWon\n", encoding="utf-8")
    (tmp_path / "bad.txt").write_text("vote\n----\nVoteLost\n", encoding="utf-8")
    (tmp_path / "other.md").write_text("not a transcript", encoding="utf-8")
    code, output = replay(tmp_path)
    assert code == 1
    assert [line for line in output.splitlines() if line.startswith(("PASS", "FAIL"))] == [
        f"FAIL {tmp_path / 'bad.txt'}",
        f"PASS {tmp_path / 'below' / 'good.txt'} (1 directives)",
    ]
    assert output.endswith("1 passed, 1 failed\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("explode 1\n----\nok\n", "there is no directive with a known command in it"),
        ("", "there is no directive with a known command in it"),
        ("add-nodes 1\n----\nok\n\nexplode 1\n----\nok\n", "+unknown command"),
        ("simple\nv1\n----\nvoters=(1)\n1: StateProbe match=0 next=1\n\nvote\n----\n", "+unknown"),
        ("vote\n----\nVoteWon\n\nsimple\n----\n", "unknown command: simple"),
        ("vote =\n----\nVoteWon\n", "line 1: cannot parse directive at column 6"),
        ("vote\n", "the file ends before the separator"),
        ("add-nodes 1\n----\nok\n\ncampaign 2\n----\nok\n", "there is no node 2"),
        ("add-nodes 1\n----\nok\n\npropose 1 a b\n----\nok\n", "a proposal is one word"),
        ("add-nodes 1\n----\nok\n\ndeliver-msgs 1 type=X\n----\nok\n", "unknown message type X"),
        ("add-nodes 1\n----\nok\n\ndeliver-msgs 1 drop=1\n----\nok\n", "both deliver and drop"),
        ("add-nodes 1 prevote=maybe\n----\nok\n", "invalid syntax"),
        ("vote cfg=(1) votes=(x)\n----\nok\n", "unknown vote: x"),
        ("committed cfg=(1) idx=(0)\n----\nok\n", "cannot use 0 as idx"),
    ],
)
def test_what_cannot_be_run_fails(tmp_path: Path, text: str, complaint: str) -> None:
    code, output = replay_text(tmp_path, text)
    assert code == 1
    assert complaint in output
    assert output.endswith("0 passed, 1 failed\n")


def test_what_the_core_raises_fails_with_a_traceback(tmp_path: Path) -> None:
    text = (
        "add-nodes 1 voters=(1) index=10 disable-conf-change-validation=1\n----\n\n"
        "campaign 1\n----\n\n"
        "stabilize log-level=none\n----\n\npropose-conf-change 1\nr1\n----\n\nstabilize\n----\n"
    )
    code, output = replay_text(tmp_path, text)
    assert code == 1
    assert "t.txt:14: stabilize\nTraceback" in output
    assert "InvariantError" in output
    assert "removed all voters" in output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("vote cfg=(1) cfgj=(2) votes=(y,n)\n----\nVoteLost\n", "VoteLost <-- via symmetry"),
        ("committed cfg=(1) cfgj=(2) idx=(8,9)\n----\n8\n", "8 <-- via symmetry"),
        ("committed cfg=(1) idx=(8)\n----\n8\n", "∞ <-- via zero-joint quorum"),
    ],
)
def test_a_quorum_that_depends_on_the_order_of_halves_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    vote, index = quorum.majority_vote, quorum.majority_index
    first_half_vote = staticmethod(lambda halves, votes: vote(halves[0], votes))
    last_half_index = staticmethod(lambda halves: index(halves[-1]))
    monkeypatch.setattr(quorum_harness, "quorum_vote", first_half_vote)
    monkeypatch.setattr(quorum_harness, "quorum_index", last_half_index)
    code, output = replay_text(tmp_path, text)
    assert code == 1
    assert f"+{complaint}\n" in output


def test_a_majority_that_is_too_small_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quorum_harness, "majority_index", staticmethod(max))
    _, output = replay_text(tmp_path, "committed cfg=(1,2,3) idx=(7,8,9)\n----\n")
    assert "+8 <-- via alternative computation\n" in output


def test_no_transcript_at_all_fails(tmp_path: Path) -> None:
    code, output = replay(tmp_path)
    assert (code, output) == (1, f"0 passed, 0 failed\nno transcript (*.txt) at {tmp_path}\n")


def test_files_that_cannot_be_read_fail(tmp_path: Path) -> None:
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff")
    code, output = replay(tmp_path / "gone.txt", binary)
    assert code == 1
    assert "gone.txt: cannot be read: No such file or directory" in output
    assert "binary.txt: is not UTF-8" in output
    assert output.endswith("0 passed, 2 failed\n")


def test_a_path_that_is_a_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    assert list(transcripts([path])) == [path]


# ---- what is compared ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("ok", "ok\n"),
        ("", "ok\n"),
        ("INFO 1 became leader at term 1\n", "ok\n"),
        ("a\n  DEBUG x\n\tWARN y\nERROR z\nb\n", "a\nb\n"),
        ("a\nFATAL\nINFORMATION x\n> INFO y", "a\nFATAL\nINFORMATION x\n> INFO y\n"),
    ],
)
def test_lines_of_the_log_are_left_out_and_nothing_equals_ok(output: str, expected: str) -> None:
    assert normalised(output) == expected


def test_lines_of_the_log_in_a_transcript_are_ignored(tmp_path: Path) -> None:
    text = "add-nodes 1 voters=(1) index=10\n----\nINFO 1 switched to configuration voters=(1)\n"
    code, output = replay_text(tmp_path, text)
    assert code == 0
    assert output.endswith("1 passed, 0 failed\n")
