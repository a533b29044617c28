from rafterd.config import Config, load_config

THREE = "1@127.0.0.1:17379,2@127.0.0.1:17479,3@127.0.0.1:17579"


def load(**settings: str) -> Config:
    overrides = {"node.shards": "2"} | {k.replace("__", "."): v for k, v in settings.items()}
    return load_config(overrides=overrides).config


def test_the_cluster_id_is_stable_for_good() -> None:
    """It is on disk and in the handshake: a change of these figures breaks every cluster."""
    assert load().cluster_id == 17818683967665171186
    assert load(cluster__initial=THREE).cluster_id == 14130399435323557091


def test_all_nodes_agree_on_the_cluster_id_in_whatever_order_they_list_themselves() -> None:
    reverse = ",".join(reversed(THREE.split(",")))
    one = load(cluster__initial=THREE)
    two = load(cluster__initial=reverse, node__id="2", peer__listen="127.0.0.1:17479")
    assert one.cluster_id == two.cluster_id


def test_the_cluster_id_depends_on_all_that_nodes_must_agree_on() -> None:
    ids = {
        load(cluster__initial=THREE).cluster_id,
        load(cluster__initial=THREE, cluster__name="other").cluster_id,
        load(cluster__initial=THREE, cluster__groups="9").cluster_id,
        load(cluster__initial=THREE, cluster__replication="2").cluster_id,
        load(cluster__initial=THREE.replace("3@", "4@")).cluster_id,
        load().cluster_id,
    }
    assert len(ids) == 6


def test_the_cluster_id_stays_when_a_node_moves() -> None:
    moved = load(cluster__initial=THREE.replace("127.0.0.1:17579", "db3.example:17679"))
    assert moved.cluster_id == load(cluster__initial=THREE).cluster_id


def test_each_shard_has_ports_of_its_own() -> None:
    config = load()
    assert [config.client.shard_port(shard) for shard in range(2)] == [7380, 7381]
    assert [config.peer.shard_port(shard) for shard in range(2)] == [17379, 17380]


def test_a_node_alone_is_its_own_cluster() -> None:
    config = load(peer__listen="127.0.0.1:1234")
    assert {node: str(address) for node, address in config.nodes.items()} == {1: "127.0.0.1:1234"}
    assert config.local_groups() == list(range(1, 9))
    assert config.members(5) == (1,)


def test_a_node_knows_the_groups_it_replicates() -> None:
    four = "1@127.0.0.1:17379,2@127.0.0.1:17479,3@127.0.0.1:17579,4@127.0.0.1:17679"
    config = load(cluster__initial=four, cluster__replication="2")
    assert config.local_groups() == [g for g in range(1, 9) if 1 in config.members(g)]
    assert config.local_groups() == [3, 4, 7, 8]


def test_the_shards_of_a_node_share_its_rate_of_snapshots() -> None:
    config = load(snapshot__bytes_per_second="9000001", snapshot__transfers_max="2")
    limits = config.express_limits
    assert limits.bytes_per_second == 4_500_000
    assert (limits.sends_max, limits.receives_max) == (2, 2)
    assert load().express_limits.bytes_per_second is None


def test_a_transfer_is_tried_again_as_often_as_a_link() -> None:
    assert load(peer__reconnect_seconds_max="0.5").express_limits.retry_cap_seconds == 0.5
    limits = load(peer__reconnect_seconds_max="0.01").express_limits
    assert limits.retry_cap_seconds == limits.retry_base_seconds
    limits.validate()
