"""Clusters that several tests share: one node and three nodes, started once each."""

from collections.abc import Iterator

import pytest

from tests.cluster.kit import Cluster, running_cluster


@pytest.fixture(scope="package")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node with two shards. Tests leave it running and use keys of their own."""
    with running_cluster(tmp_path_factory.mktemp("one"), 1, shards=2, groups=5) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, one of them with another number of shards. Tests leave them running."""
    with running_cluster(
        tmp_path_factory.mktemp("three"), 3, shards=2, groups=5, shards_of_node={3: 1}
    ) as cluster:
        yield cluster


@pytest.fixture(params=["one_node", "three_nodes"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Run the test against one node and against three."""
    running: Cluster = request.getfixturevalue(request.param)
    return running
