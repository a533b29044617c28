"""Start of a node: take the data directory, probe the ports, then hand over to the supervisor.

Everything that can be refused is refused here, before the first fork, with exit code 1 and a
sentence.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from rafter_storage.data_directory import DataDirectory
from rafter_storage.errors import IdentityError, LockedError, StorageError
from rafter_storage.identity import Identity
from rafter_storage.resharding import Progress, settle_layout
from rafterd import __version__, logs
from rafterd.boot import EXIT_FAILURE, ShardBoot
from rafterd.config import Config, LoadedConfig, listening_ports
from rafterd.health import NodeView, health_response, live_checks, ready_checks
from rafterd.http_server import Handler, HttpError, Request, Response
from rafterd.metrics import Exposition, NodeCollector
from rafterd.node_tls import NodeTls, TlsError
from rafterd.notify import Notifier, watchdog_seconds
from rafterd.placement import shard_of_group
from rafterd.ports import PortError, listen, probe
from rafterd.shard_process import RunShard
from rafterd.shared import SharedState
from rafterd.status import banner
from rafterd.supervisor import Supervisor

logger = logging.getLogger(__name__)

LOCK_PATIENCE_SECONDS = 3.0
"""How long to wait for a lock: shards hold a killed supervisor's until they notice its end."""
LOCK_RETRY_SECONDS = 0.05
PROGRESS_SECONDS = 5.0
"""How often a change of the number of shards is heard of."""
EXTENSION_SECONDS = 60.0
"""What the service manager is asked for each time: far more than lies between two reports."""
IDENTITY_HINT = """\
node.id and [cluster] are fixed by the first start on a data directory;
cluster_id follows from cluster.name, cluster.groups, cluster.replication and the ids of the nodes
in cluster.initial
"""


def run_shard_in_child(boot: ShardBoot) -> int:
    """Run a shard; imported here so that no event loop is loaded before the fork."""
    from rafterd.shard import run_shard

    return run_shard(boot)


def run_node(
    config: Config,
    *,
    reload: Callable[[], LoadedConfig],
    is_banner: bool = False,
    run_shard: RunShard = run_shard_in_child,
) -> int:
    """Run a node until it is told to stop; return its exit code.

    `reload` reads the configuration again, on SIGHUP. `run_shard` is what a shard process runs.
    """
    logs.configure(config.log.level, config.log.format, {"node": config.node.id})
    os.umask(0o077)
    _raise_descriptor_limit()
    try:
        directory = _acquire(Path(config.node.data_dir))
    except StorageError as error:
        return _refuse(error)
    notifier = Notifier(os.environ)
    try:
        identity = _load_identity(config, directory)
        ports = listening_ports(config)
        probe(ports)
        identity = _settle_layout(config, directory, identity, notifier)
        tls = NodeTls(config)
        http_listener = listen(ports[-1])
    except IdentityError as error:
        directory.release()
        return _refuse(error, IDENTITY_HINT)
    except (StorageError, PortError, TlsError) as error:
        directory.release()
        return _refuse(error)
    shared = SharedState(config.node.shards, config.cluster.groups, config.nodes)

    def on_serving() -> None:
        logger.info("node serves", extra={"clients": config.client.listen})
        if is_banner:
            sys.stdout.write(banner(config))
            sys.stdout.flush()

    supervisor = Supervisor(
        config,
        identity,
        run_shard=run_shard,
        shared=shared,
        notifier=notifier,
        tls=tls,
        watchdog_seconds=watchdog_seconds(os.environ, os.getpid()),
        on_serving=on_serving,
        reload_log_level=lambda: _reload_log_level(config, reload),
    )
    supervisor.serve_http(http_listener, make_handler(config, shared, supervisor))
    logger.info(
        "node starts",
        extra={
            "version": __version__,
            "cluster": config.cluster.name,
            "shards": config.node.shards,
            "groups": config.cluster.groups,
            "data_dir": config.node.data_dir,
        },
    )
    status = supervisor.run()
    logger.info("node stopped", extra={"status": status})
    directory.release()
    return status


def _load_identity(config: Config, directory: DataDirectory) -> Identity:
    return Identity.load_or_create(
        directory,
        cluster_name=config.cluster.name,
        cluster_id=config.cluster_id,
        node_id=config.node.id,
        groups=config.cluster.groups,
        replication=config.cluster.replication,
    )


def _settle_layout(
    config: Config, directory: DataDirectory, identity: Identity, notifier: Notifier
) -> Identity:
    """Make the logs of the configured number of shards, and move all groups to them, if need be."""
    shards = config.node.shards
    is_change = identity.shards not in (0, shards)
    if is_change:
        logger.info("node.shards changes", extra={"before": identity.shards, "now": shards})
    settled = settle_layout(
        directory,
        identity,
        shards,
        place=shard_of_group,
        segment_bytes=config.storage.segment_bytes,
        report=ProgressReporter(notifier, time.monotonic),
    )
    if is_change:
        logger.info("node.shards has changed", extra={"before": identity.shards, "now": shards})
    return settled


class ProgressReporter:
    """Says in the log, now and then, how far a change of the number of shards has come.

    The service manager is asked for patience: the start may take longer than it allows.
    """

    def __init__(self, notifier: Notifier, now_seconds: Callable[[], float]) -> None:
        self._notifier = notifier
        self._now_seconds = now_seconds
        self._next_seconds = now_seconds()

    def __call__(self, progress: Progress) -> None:
        """Take note of progress."""
        now_seconds = self._now_seconds()
        if now_seconds < self._next_seconds:
            return
        self._next_seconds = now_seconds + PROGRESS_SECONDS
        self._notifier.send(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_SECONDS * 1e6)}")
        logger.info("node.shards changes: groups are copied", extra=progress._asdict())


def make_handler(config: Config, shared: SharedState, view: NodeView) -> Handler:
    """Return the HTTP handler of a node."""
    exposition = Exposition(NodeCollector(config, shared, view.facts))
    local_groups = config.local_groups()

    def handle(request: Request) -> Response:
        if request.path == "/metrics":
            body, content_type = exposition.render(request.headers.get("accept", ""))
            return Response(HTTPStatus.OK, body, content_type)
        if request.path == "/livez":
            return health_response("livez", live_checks(view.facts()), request)
        if request.path == "/readyz":
            checks = ready_checks(view.facts(), shared, local_groups, is_stopping=view.is_stopping)
            return health_response("readyz", checks, request)
        raise HttpError(HTTPStatus.NOT_FOUND, "here are /livez, /readyz and /metrics")

    return handle


def _acquire(path: Path) -> DataDirectory:
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    # The directory itself may be reached through a link; what is in it may not.
    path = Path(os.path.realpath(path))
    while True:
        try:
            return DataDirectory.acquire(path)
        except LockedError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOCK_RETRY_SECONDS)


def _reload_log_level(running: Config, reload: Callable[[], LoadedConfig]) -> str:
    """Read the configuration again: the log level takes effect, the rest at the next start."""
    config = reload().config
    for section in config.__struct_fields__:
        new, old = getattr(config, section), getattr(running, section)
        for key in new.__struct_fields__:
            is_changed = getattr(new, key) != getattr(old, key)
            if is_changed and (section, key) != ("log", "level"):
                logger.warning("takes effect at the next start", extra={"key": f"{section}.{key}"})
    logs.set_level(config.log.level)
    return config.log.level


def _raise_descriptor_limit() -> None:
    """Use all descriptors that the hard limit allows: each client is one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        logger.warning("cannot raise the limit of open files", extra={"error": error})


def _refuse(error: Exception, hint: str = "") -> int:
    for line in [*str(error).splitlines(), *hint.splitlines()]:
        sys.stderr.write(f"rafterd: {line}\n")
    return EXIT_FAILURE
