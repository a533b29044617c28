"""One line on the state of a node, for the service manager's STATUS= and the banner."""

from __future__ import annotations

from collections.abc import Sequence

from rafterd import __version__
from rafterd.config import Config
from rafterd.shared import GroupState, GroupWord, SharedState


def status_line(
    config: Config, shared: SharedState, groups: Sequence[int], shards_serving: int
) -> str:
    """Return, for example, "shards 8/8, groups 12/12, leaders 4, applied lag 0"."""
    serving = leading = lag = 0
    for group in groups:
        serving += shared.get_group(group, GroupWord.STATE) == GroupState.SERVING
        leading += shared.route(group)[0] == config.node.id
        commit = shared.get_group(group, GroupWord.COMMIT)
        lag = max(lag, commit - shared.get_group(group, GroupWord.APPLIED))
    return (
        f"shards {shards_serving}/{config.node.shards}, groups {serving}/{len(groups)}, "
        f"leaders {leading}, applied lag {lag}"
    )


def banner(config: Config) -> str:
    """Return what a person at a terminal is told once all shards serve."""
    client, http, cluster = config.client, config.http, config.cluster
    first, last = client.shard_port(0), client.shard_port(config.node.shards - 1)
    own = f"{first}" if first == last else f"{first} to {last}"
    host = "127.0.0.1" if client.address.is_wildcard else client.host
    option = "" if host == "127.0.0.1" else f" -h {host}"
    return f"""\
rafterd {__version__}: node {config.node.id} of cluster "{cluster.name}" serves

  clients   {client.listen} (shards alone on {own})
  peers     {config.peer.listen}
  health    http://{http.listen}/readyz, /livez and /metrics
  data      {config.node.data_dir}

Type in another terminal:

  rafter-cli --endpoints {_endpoint(host, client.port)} put greeting hello
  redis-cli{option} -p {client.port} get greeting

Ctrl-C stops it; the data stays.
"""


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
