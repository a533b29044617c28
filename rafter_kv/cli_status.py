"""What `rafter-cli status` shows: nodes, shards and groups, from the reply to RAFTER.STATUS.

A node may run another version than this program, so the reply is taken as it comes: a field that
is missing leaves its cell empty, and one that is new appears in the JSON form.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rafter_kv.cli_output import Output, cell_text
from rafter_kv.client import Client, ServerError

Record = dict[str, object]

NODE_COLUMNS: Final = ("id", "state", "address", "client", "version", "shards")
SHARD_COLUMNS: Final = (
    "node", "shard", "state", "clients", "commands", "cpu_seconds", "memory_bytes",
)  # fmt: skip
GROUP_COLUMNS: Final = ("group", "slots", "members", "leader", "term")
REPLICA_COLUMNS: Final = ("node", "role", "state", "commit", "applied", "last_index", "keys")

NO_LEADER_TEXT: Final = "none"

STYLES: Final = {
    "up": "green",
    "serving": "green",
    "unreachable": "bold red",
    "damaged": "bold red",
    NO_LEADER_TEXT: "bold red",
}


class Status(NamedTuple):
    """The state of a cluster as one node sees it."""

    nodes: list[Record]
    shards: list[Record]
    groups: list[Record]
    others: Record
    """Top-level fields that this version does not know."""

    def groups_without_leader(self) -> list[Record]:
        """Return the groups that cannot serve now, as far as the answering node knows."""
        return [group for group in self.groups if not group.get("leader")]


def fetch_status(client: Client) -> Status:
    """Ask the cluster; raise ServerError for a reply that is no status."""
    return parse_status(client.call(b"RAFTER.STATUS"))


def parse_status(reply: object) -> Status:
    """Read a RESP3 reply, or a RESP2 one, whose maps are flat arrays."""
    top = _record(reply)
    nodes, shards, groups = (_records(top.pop(key, [])) for key in ("nodes", "shards", "groups"))
    for group in groups:
        group["replicas"] = _records(group.get("replicas", []))
    return Status(nodes, shards, groups, top)


def _records(value: object) -> list[Record]:
    if not isinstance(value, list):
        raise ServerError("ERR unexpected reply to RAFTER.STATUS: expected an array of maps")
    return [_record(item) for item in value]


def _record(value: object) -> Record:
    if isinstance(value, list) and len(value) % 2 == 0:
        value = dict(zip(map(cell_text, value[::2]), value[1::2], strict=True))
    if not isinstance(value, dict):
        raise ServerError("ERR unexpected reply to RAFTER.STATUS: expected a map")
    return {cell_text(key): item for key, item in value.items()}


def write_status(status: Status, output: Output) -> None:
    """Print `status` in the format of `output`."""
    if output.format == "json":
        output.json(
            {
                "nodes": status.nodes,
                "shards": status.shards,
                "groups": status.groups,
                **status.others,
            }
        )
        return
    nodes = [_cells(node, NODE_COLUMNS) for node in status.nodes]
    shards = [_cells(shard, SHARD_COLUMNS) for shard in status.shards]
    groups = [row for group in status.groups for row in _group_rows(group)]
    if output.format == "table":
        output.table("Nodes", NODE_COLUMNS, nodes, STYLES)
        output.table("Shards", SHARD_COLUMNS, shards, STYLES)
        output.table("Groups", GROUP_COLUMNS + REPLICA_COLUMNS, groups, STYLES)
        return
    for kind, rows in (("node", nodes), ("shard", shards), ("group", groups)):
        for row in rows:
            output.line("\t".join((kind, *row)))


def _group_rows(group: Record) -> list[list[str]]:
    """Return a row per replica, each with the group's fields, so that lines can be searched."""
    shared = _cells({**group, "leader": group.get("leader") or NO_LEADER_TEXT}, GROUP_COLUMNS)
    replicas = group["replicas"]
    assert isinstance(replicas, list), "parse_status made it one"
    return [shared + _cells(replica, REPLICA_COLUMNS) for replica in replicas or [{}]]


def _cells(record: Record, columns: tuple[str, ...]) -> list[str]:
    return [cell_text(record.get(column)) for column in columns]
