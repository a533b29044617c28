import pytest

from rafter_kv.command_spec import CommandSpec


@pytest.mark.parametrize(
    ("arity", "accepted", "refused"),
    [(2, [2], [1, 3]), (-2, [2, 3, 100], [1]), (-1, [1, 2], [0])],
)
def test_arity_counts_the_name(arity: int, accepted: list[int], refused: list[int]) -> None:
    spec = CommandSpec(name=b"X", arity=arity)
    assert all(map(spec.accepts, accepted))
    assert not any(map(spec.accepts, refused))


@pytest.mark.parametrize(
    ("positions", "keys"),
    [
        ((0, 0, 0), []),
        ((1, 1, 1), [b"a"]),
        ((1, -1, 1), [b"a", b"1", b"b", b"2"]),
        ((1, -1, 2), [b"a", b"b"]),
        ((2, -2, 1), [b"1", b"b"]),
    ],
)
def test_keys_are_found_by_position(positions: tuple[int, int, int], keys: list[bytes]) -> None:
    first_key, last_key, key_step = positions
    spec = CommandSpec(
        name=b"X", arity=-2, first_key=first_key, last_key=last_key, key_step=key_step
    )
    assert spec.keys([b"X", b"a", b"1", b"b", b"2"]) == keys
