from rafter_kv.connection import RespConnection
from rafter_kv.front_end import ClusterView, GroupView, NodeView
from rafter_kv.results import Result
from rafter_kv.server_commands import SERVER_COMMANDS
from rafter_kv.server_commands_cluster import shard_identity
from tests.kv.fake_front_end import FakeFrontEnd

VIEW = ClusterView(
    cluster_id=5,
    node=1,
    shard=1,
    nodes=(
        NodeView(1, "one", 7379, 17379, (7380, 7381)),
        NodeView(2, "two", 7379, 17379, (7380,)),
        NodeView(3, "three", 7379, 17379, (7379,)),
    ),
    groups=(
        GroupView(1, 0, 4095, leader=1, term=3, replicas=(1, 2)),
        GroupView(2, 4096, 8191, leader=2, term=9, replicas=(1, 2)),
        GroupView(3, 8192, 12287, leader=1, term=4, replicas=(1, 2)),
        GroupView(4, 12288, 16383, leader=0, term=2, replicas=(2, 1)),
    ),
)


class FrontEnd(FakeFrontEnd):
    view = VIEW

    def cluster_view(self) -> ClusterView:
        return self.view


def ask(*arguments: bytes, view: ClusterView = VIEW) -> Result:
    front_end = FrontEnd()
    front_end.view = view
    handler = SERVER_COMMANDS[b"CLUSTER"].handler
    assert handler is not None
    return handler(RespConnection(front_end), [b"CLUSTER", *arguments])


def address(node: int, shard: int) -> list[Result]:
    host = VIEW.nodes[node - 1].host.encode()
    return [host, VIEW.nodes[node - 1].shard_ports[shard], shard_identity(5, node, shard), []]


def test_slots_name_the_shard_that_leads_first() -> None:
    assert ask(b"SLOTS") == [
        [0, 4095, address(1, 1), address(2, 0)],
        [4096, 8191, address(2, 0), address(1, 0)],
        [8192, 12287, address(1, 1), address(2, 0)],
        [12288, 16383, address(2, 0), address(1, 0)],  # no leader: the first replica
    ]


def test_nodes_are_shards_with_the_slots_they_stand_for() -> None:
    text = ask(b"NODES")
    assert isinstance(text, bytes)
    lines = [line.split() for line in text.decode().splitlines()]
    identities = [shard_identity(5, *place).decode() for place in ((1, 0), (1, 1), (2, 0), (3, 0))]
    assert [line[0] for line in lines] == identities
    assert [line[1] for line in lines] == [
        "one:7380@17379",
        "one:7381@17380",
        "two:7380@17379",
        "three:7379@17379",
    ]
    assert [line[2] for line in lines] == ["slave", "myself,master", "master", "master"]
    assert [line[3] for line in lines] == [identities[2], "-", "-", "-"]
    assert [line[6] for line in lines] == ["0", "4", "9", "0"]
    assert [line[8:] for line in lines] == [
        [],
        ["0-4095", "8192-12287"],
        ["4096-8191", "12288-16383"],
        [],
    ]


def test_shards_join_groups_of_the_same_replicas() -> None:
    shards = ask(b"SHARDS")
    assert isinstance(shards, list)
    first = shards[0]
    assert isinstance(first, dict)
    assert first[b"slots"] == [0, 4095, 8192, 12287]
    nodes = first[b"nodes"]
    assert isinstance(nodes, list)
    roles = [(node[b"id"], node[b"role"]) for node in nodes if isinstance(node, dict)]
    assert roles == [
        (shard_identity(5, 1, 1), b"master"),
        (shard_identity(5, 2, 0), b"replica"),
    ]
    assert len(shards) == 2


def test_info_fails_the_cluster_while_a_group_has_no_leader() -> None:
    text = ask(b"INFO")
    assert isinstance(text, bytes)
    assert text.startswith(
        b"cluster_state:fail\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:12288\r\n"
    )
    groups = tuple(group._replace(leader=2) for group in VIEW.groups)
    healthy = ask(b"INFO", view=VIEW._replace(groups=groups))
    assert isinstance(healthy, bytes)
    assert b"cluster_state:ok\r\n" in healthy
    assert b"cluster_size:1\r\n" in healthy
    assert b"cluster_known_nodes:4\r\n" in healthy


def test_identities_are_forty_digits_and_differ() -> None:
    places = {(c, n, s) for c in (1, 2) for n in (1, 2) for s in (0, 1)}
    identities = {shard_identity(*place) for place in places}
    assert len(identities) == len(places)
    assert {len(identity) for identity in identities} == {40}
    assert ask(b"MYID") == shard_identity(5, 1, 1)


def test_replicas_on_nodes_not_in_the_view_are_left_out() -> None:
    groups = (GroupView(1, 0, 16383, leader=9, term=1, replicas=(9, 2)),)
    view = VIEW._replace(groups=groups)
    assert ask(b"SLOTS", view=view) == [[0, 16383, address(2, 0)]]
    nowhere = VIEW._replace(groups=(groups[0]._replace(replicas=(9,)),))
    assert ask(b"SLOTS", view=nowhere) == []
    assert ask(b"SHARDS", view=nowhere) == []
