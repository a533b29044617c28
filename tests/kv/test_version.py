from rafter_kv.version import RAFTER_VERSION, REDIS_VERSION


def test_versions_are_such_that_clients_can_compare_them() -> None:
    assert tuple(map(int, REDIS_VERSION.split("."))) >= (7, 2, 0)
    assert RAFTER_VERSION
