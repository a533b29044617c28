from rafter_kv.connection import RespConnection
from rafter_kv.front_end import ClientRegistry, FrontEnd
from tests.kv.fake_front_end import FakeFrontEnd


def test_the_fake_is_a_front_end() -> None:
    front_end: FrontEnd = FakeFrontEnd()  # mypy checks the signatures
    assert front_end.next_client_id() != front_end.next_client_id()


def test_the_registry_refuses_what_is_over_its_limit_and_counts_it() -> None:
    registry = ClientRegistry(1)
    connection = RespConnection(FakeFrontEnd())
    assert registry.add(1, connection)
    assert not registry.add(2, connection)
    registry.remove(2)
    assert list(registry.connections) == [1]
    registry.remove(1)
    assert registry.add(3, connection)
    assert (registry.connections_total, registry.rejected_total) == (3, 1)
