import sys

from rafter_kv.command_spec import Routing
from rafter_kv.command_table import COMMANDS, ROUTES, find_route, lookup


def test_every_command_has_exactly_one_way_to_be_executed() -> None:
    for spec in COMMANDS.values():
        assert (spec.handler is None) != (spec.operation is None), spec.name
        assert (spec.routing is Routing.LOCAL) == (spec.handler is not None), spec.name


def test_names_are_canonical_and_unique() -> None:
    for name, spec in COMMANDS.items():
        assert name == spec.name == name.upper()
        for part in spec.subcommands:
            assert part.name.startswith(name + b"|")
            assert part.handler is not None


def test_lookup_takes_any_case() -> None:
    for name in (b"get", b"GET", b"Get", b"gEt"):
        spec = lookup(name)
        assert spec is not None
        assert spec.name == b"GET"
        assert find_route(name) == ROUTES[b"GET"]
    assert lookup(b"nosuch") is None
    assert find_route(b"") is None


def test_routes_say_what_the_specs_say() -> None:
    for name, least, most, key_position, is_write, spec in ROUTES.values():
        assert name == spec.name
        assert spec.accepts(least)
        assert not spec.accepts(least - 1)
        assert spec.accepts(most)
        assert most == sys.maxsize or not spec.accepts(most + 1)
        assert is_write == spec.is_write
        assert bool(key_position) == (spec.routing is Routing.KEY)


def test_commands_with_keys_are_routed_by_them() -> None:
    for spec in COMMANDS.values():
        by_keys = spec.routing in (
            Routing.KEY,
            Routing.SPLIT_ARRAY,
            Routing.SPLIT_SUM,
            Routing.SAME_GROUP,
        )
        assert by_keys == bool(spec.first_key), spec.name
