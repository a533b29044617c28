"""Properties that hold for any input: hypothesis looks for one that breaks them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rafter_core import (
    NUMBER_MAX,
    Change,
    ChangeKind,
    ConfChangeError,
    Entry,
    Membership,
    Message,
    MessageKind,
    PeerNotFound,
    RequestRefused,
    StepError,
    changer,
    entry_bytes,
    limit_bytes,
)
from rafter_core.quorum import VoteResult, quorum_index, quorum_vote
from tests.core.chaos_faults import Options
from tests.core.harness import TIMEOUT_STEPS, Cluster
from tests.core.network import Host
from tests.core.support import THREE, Driven, entry, of_kind

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
NODES = st.integers(1, 6)

# Log matching ------------------------------------------------------------------------------------


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Draw a leader's terms, a follower's that diverge somewhere, and how much is committed.

    A term has one leader, so what diverges is of other terms, the even ones.
    """
    leader = sorted(draw(st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=8)))
    shared = draw(st.integers(0, len(leader)))
    low = leader[shared - 1] + 1 if shared else 2
    tail = draw(st.lists(st.sampled_from([2, 4, 6]), max_size=4))
    follower = leader[:shared] + sorted(max(low, term) for term in tail)
    return leader, follower, draw(st.integers(0, shared))


@PROPERTY
@given(
    logs=logs(),
    appends=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))),
)
def test_logs_match_after_any_appends_in_any_order(
    logs: tuple[list[int], list[int], int], appends: list[tuple[int, int, int]]
) -> None:
    """Items 17 and 18: prefixes, repetitions, reorderings; with term 7 leading."""
    leader_terms, follower_terms, committed = logs
    leader = [entry(term, index) for index, term in enumerate(leader_terms, 1)]
    driven = Driven(terms=follower_terms)
    driven.step(MessageKind.HEARTBEAT, 2, term=7, commit=committed)
    verified = committed
    for start, count, commit in appends:
        index = min(start, len(leader))
        entries = leader[index : index + count]
        before, kept = driven.node.commit, driven.node.last_index
        was_equal = is_prefix(stored(driven), leader)
        (answer,) = driven.step(
            MessageKind.APPEND,
            2,
            term=7,
            index=index,
            log_term=leader[index - 1].term if index else 0,
            entries=entries,
            commit=min(commit, len(leader)),
        )
        assert driven.node.commit >= before
        if answer.reject:
            assert driven.node.last_index == kept
            continue
        log = stored(driven)
        assert log[: answer.index] == leader[: answer.index]
        verified = max(verified, answer.index)
        assert driven.node.commit <= verified
        if was_equal:
            assert driven.node.last_index >= kept, "a log that agrees was cut"
    assert stored(driven)[:committed] == leader[:committed]


def stored(driven: Driven) -> list[Entry]:
    last = driven.storage.last_index()
    return driven.storage.entries(1, last + 1, 1 << 30) if last else []


def is_prefix(log: list[Entry], whole: list[Entry]) -> bool:
    return log == whole[: len(log)]


# Elections ---------------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.tuples(st.sampled_from("cdddrxpt"), st.integers(0, 30)), min_size=5, max_size=80
)


@settings(PROPERTY, max_examples=300)
@given(actions=ACTIONS, pre_vote=st.booleans(), check_quorum=st.booleans())
def test_one_leader_in_a_term_and_no_commit_undone_by_any_schedule(
    actions: list[tuple[str, int]], pre_vote: bool, check_quorum: bool
) -> None:
    """Items 2 to 6: campaigns, deliveries out of order, repetitions, restarts, proposals, ticks."""
    hosts = [Host(n, THREE, pre_vote=pre_vote, check_quorum=check_quorum) for n in THREE.voters]
    pool: list[Message] = []
    leaders: dict[int, int] = {}
    commits = dict.fromkeys(THREE.voters, 0)
    for action, number in actions:
        host = hosts[number % 3]
        if action == "c":
            host.node.campaign()
        elif action in "dx" and pool:
            # x: the message stays on its way, and arrives again.
            message = pool[number % len(pool)] if action == "x" else pool.pop(number % len(pool))
            host = hosts[message.to - 1]
            deliver(host, message)
        elif action == "r":
            host.restart()
        elif action == "t":
            host.node.tick()
        elif action == "p" and host.node.is_leader:
            host.node.propose(b"%d" % number)
        pool += host.pump()
        if host.node.is_leader:
            assert leaders.setdefault(host.node.term, host.node_id) == host.node_id
        assert host.node.commit >= commits[host.node_id]
        commits[host.node_id] = host.node.commit
    longest = max((host.applied for host in hosts), key=len)
    for host in hosts:
        assert host.applied == longest[: len(host.applied)]


def deliver(host: Host, message: Message) -> None:
    try:
        host.node.step(message)
    except (PeerNotFound, RequestRefused):
        pass
    except StepError as error:
        raise AssertionError(f"a correct peer's message was refused: {message!r}") from error


# Quorums -----------------------------------------------------------------------------------------

HALF = st.lists(NODES, max_size=5, unique=True)


@PROPERTY
@given(
    halves=st.tuples(HALF, HALF),
    acknowledged=st.dictionaries(NODES, st.integers(0, 9)),
    votes=st.dictionaries(NODES, st.booleans()),
)
def test_a_joint_quorum_is_a_majority_of_each_half(
    halves: tuple[list[int], list[int]], acknowledged: dict[int, int], votes: dict[int, bool]
) -> None:
    lists = [[acknowledged.get(node, 0) for node in half] for half in halves]
    assert quorum_index(lists) == min(naive_index(values) for values in lists)
    assert quorum_vote(halves, votes) is naive_vote(halves, votes)


def naive_index(values: Sequence[int]) -> int:
    """Try every candidate: the highest one that more than half have reached."""
    candidates = [v for v in values if 2 * sum(other >= v for other in values) > len(values)]
    return max(candidates) if values else NUMBER_MAX


def naive_vote(halves: Sequence[Sequence[int]], votes: dict[int, bool]) -> VoteResult:
    """Complete the votes in the best and in the worst way, and see whether it matters."""

    def wins(missing: bool) -> bool:
        return all(
            not half or 2 * sum(votes.get(node, missing) for node in half) > len(half)
            for half in halves
        )

    if wins(missing=False):
        return VoteResult.WON
    return VoteResult.PENDING if wins(missing=True) else VoteResult.LOST


# Changes of the membership -----------------------------------------------------------------------

KINDS = st.sampled_from([ChangeKind.ADD_VOTER, ChangeKind.REMOVE_NODE, ChangeKind.ADD_LEARNER])
CHANGES = st.lists(st.builds(Change, KINDS, NODES), min_size=1, max_size=6)


@settings(PROPERTY, max_examples=200)
@given(setup=CHANGES, changes=CHANGES, auto_leave=st.booleans())
def test_simple_changes_one_after_the_other_equal_one_joint_change(
    setup: list[Change], changes: list[Change], auto_leave: bool
) -> None:
    founding = after_simple(Membership((1,)), setup)
    assume(founding is not None)
    assert founding is not None
    expected = after_simple(founding, changes)
    assume(expected is not None)
    joint = changer.enter_joint(founding, auto_leave, changes).membership
    assert joint.voters_outgoing == founding.voters
    assert joint.auto_leave is auto_leave
    assert joint.fault() is None
    assert changer.leave_joint(joint).membership == expected


def after_simple(membership: Membership, changes: list[Change]) -> Membership | None:
    """Return what the changes lead to one by one, None if that would leave no voter."""
    try:
        for change in changes:
            membership = changer.simple(membership, [change]).membership
    except ConfChangeError:
        return None
    return membership


# The modes ---------------------------------------------------------------------------------------


@settings(PROPERTY, max_examples=10)
@given(
    seed=st.integers(0, 1 << 16),
    proposals=st.lists(st.binary(min_size=1, max_size=20), min_size=30, max_size=30),
    isolated_from=st.integers(0, 25),
)
def test_every_mode_gives_the_same_logs_for_the_same_inputs(
    seed: int, proposals: list[bytes], isolated_from: int
) -> None:
    """With nothing delayed: a leader is isolated for a while, proposals go to every leader."""
    outcomes = []
    for mode in ("callbacks", "messages", "synchronous"):
        cluster = Cluster(3, seed, Options(modes=(mode,)))
        for step, payload in enumerate(proposals):
            if step == isolated_from:
                leader = cluster.elect().node_id
                cluster.cuts = {(leader, n) for n in (1, 2, 3)} | {(n, leader) for n in (1, 2, 3)}
            for node in cluster.running():
                if node.raw.is_leader:
                    node.raw.propose(payload)
                    node.turn()
            cluster.run(2)
        cluster.cuts.clear()
        cluster.elect()
        # The isolated one may still be waiting out its election timeout before it is heard.
        cluster.run(4 * TIMEOUT_STEPS)
        cluster.check_logs()
        outcomes.append([node.storage.all_entries() for node in cluster.nodes.values()])
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len({tuple(log) for log in outcomes[0]}) == 1


# Packing of appends ------------------------------------------------------------------------------


@PROPERTY
@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=12),
    cut=st.integers(1, 12),
    off=st.integers(-1, 1),
)
def test_appends_are_packed_up_to_the_limit_and_leave_nothing_out(
    sizes: list[int], cut: int, off: int
) -> None:
    """Item 19: limits at the size of some entries, one less, one more."""
    driven = Driven(terms=())
    driven.lead_replicating()
    for size in sizes:
        driven.node.propose(b"x" * size)
    driven.pump()
    entries = driven.storage.entries(2, 2 + len(sizes), 1 << 30)
    limit = max(1, sum(map(entry_bytes, entries[:cut])) + off)
    leader = Driven(terms=(), message_bytes_max=limit, inflight_bytes_max=1 << 30)
    leader.lead_replicating()
    # Follower 3 is only probed while the entries come, and then gets them all at once.
    leader.node.report_unreachable(3)
    for size in sizes:
        leader.node.propose(b"x" * size)
    leader.pump()
    messages = of_kind(leader.acknowledge(3, 1), MessageKind.APPEND)
    received: list[Entry] = []
    for message in (item for item in messages if item.to == 3):
        packed = list(message.entries)
        assert message.index == 1 + len(received)
        assert packed == limit_bytes(entries[len(received) :], limit)
        is_single = len(packed) == 1
        assert is_single or sum(map(entry_bytes, packed)) <= limit
        received += packed
        following = entries[len(received) : len(received) + 1]
        assert not following or sum(map(entry_bytes, packed + following)) > limit
    assert received == entries
