"""Roles as numbers."""

from __future__ import annotations

from rafter_core import Role


def test_roles_index_the_dispatch_table() -> None:
    assert [role.value for role in Role] == [0, 1, 2, 3]
