"""The parts of one shard, put together: log, groups, transport, router and client listeners."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any, TypeVar

from rafter_core import (
    DecodeError,
    InvariantError,
    RawNode,
    Role,
    StateMachine,
    TransferRefused,
)
from rafter_kv.machine import KeyValueMachine
from rafter_transport.exchanger import Channel, Exchanger
from rafter_transport.payload import PayloadError
from rafter_transport.registry import Registry
from rafterd.answers import Answers
from rafterd.boot import ShardBoot
from rafterd.client_front import ClientFront
from rafterd.client_listeners import ClientListeners
from rafterd.clock import Clock
from rafterd.cluster_map_machine import ClusterMapMachine
from rafterd.engine import Engine
from rafterd.environment import Environment
from rafterd.group_service import GroupService
from rafterd.node_status import StatusGatherer
from rafterd.peer_status import publish_peers
from rafterd.placement import SYSTEM_GROUP, groups_of_shard, shard_of_group
from rafterd.replica import Replica, ReplicaListener
from rafterd.replica_making import Made, Unservable, make_replica
from rafterd.requests import (
    Reply,
    Request,
    Status,
    decode_reply,
    decode_request,
    not_executed,
)
from rafterd.router import Router
from rafterd.shard_map import ShardMap
from rafterd.shard_parts import link_limits, make_hello, open_log
from rafterd.shared import Counter, GroupState, GroupWord
from rafterd.snapshots import Snapshots, open_snapshots

logger = logging.getLogger(__name__)

Machine = TypeVar("Machine", bound=StateMachine)

REAL = Environment()


class ShardServices:
    """Everything that one shard runs. Made and used on the shard's loop."""

    def __init__(
        self,
        boot: ShardBoot,
        loop: asyncio.AbstractEventLoop,
        on_fatal: Callable[[BaseException], None],
        environment: Environment = REAL,
    ) -> None:
        """Recover the log and build the parts. Raises StorageError and OSError."""
        self._environment = environment
        self._boot = boot
        self._config = config = boot.config
        self._loop = loop
        self._on_fatal = on_fatal
        self._shared = shared = boot.shared
        self._counters = shared.counter_words(boot.shard)
        self._clock = Clock(environment.wall_seconds)
        self._replay_targets: dict[int, int] = {}
        self._first_leader_ticks = config.raft.election_timeout_ticks
        self._services: dict[int, GroupService] = {}
        self._machines: dict[int, KeyValueMachine] = {}
        nodes = {node: (address.host, address.port) for node, address in config.nodes.items()}
        self._registry = Registry(config.node.id, nodes)
        self._hello = make_hello(boot)
        self._link_limits = link_limits(config)
        self.exchanger = self._make_exchanger()
        self._answers = Answers(self.exchanger)
        self._store = open_log(boot, environment.files)
        owned = self._owned_groups()
        self._snapshot_store = open_snapshots(config, owned, environment.files)
        self.engine = self._make_engine()
        self._snapshots = self._make_snapshots(len(owned))
        self._router = self._make_router()
        self._map = ShardMap(
            boot=boot,
            registry=self._registry,
            exchanger=self.exchanger,
            engine=self.engine,
            snapshots=self._snapshots,
            call_later=loop.call_later,
            random_bits=environment.random_bits,
        )
        self._status = self._make_status()
        self.front = ClientFront(
            config=config,
            shard=boot.shard,
            shared=shared,
            registry=self._registry,
            router=self._router,
            status=self._status,
            map_requests=self._map.requests,
        )
        self._listeners = ClientListeners(boot, self.front, loop)
        self.engine.before_round = self._router.form_batches
        self.engine.after_round = self.front.flush_replies
        self.engine.on_condemned = self._group_condemned
        for group in owned:
            self._add_group(group)

    # Building ---------------------------------------------------------------------------------

    def _owned_groups(self) -> list[int]:
        """Return the groups that this shard owns and this node has a replica of."""
        config = self._config
        local = set(config.local_groups())
        owned = groups_of_shard(self._boot.shard, config.node.shards, config.cluster.groups)
        system = [SYSTEM_GROUP] if self._boot.shard == 0 else []
        return system + [group for group in owned if group in local]

    def _new_generator(self) -> random.Random:
        return random.Random(self._environment.random_bits(128))

    def _make_exchanger(self) -> Exchanger:
        return Exchanger(
            hello=self._hello,
            registry=self._registry,
            limits=self._link_limits,
            handlers={
                Channel.RAFT: self._on_raft,
                Channel.REQUEST: self._on_requests,
                Channel.REPLY: self._on_replies,
                Channel.ADMIN: self._on_admin,
                Channel.CLUSTER_MAP: self._on_map,
            },
            on_link_state=self._on_link_state,
            loop=self._loop,
            generator=self._new_generator(),
            tls=self._boot.tls.peer,
        )

    def _make_engine(self, engine_type: type[Engine] = Engine) -> Engine:
        return engine_type(
            loop=self._loop,
            store=self._store,
            post=self.exchanger,
            shard_counts=self._registry,
            counters=self._counters,
            sync_mode=self._config.storage.sync,
            on_fatal=self._on_fatal,
            make_flusher=self._environment.make_flusher,
            buggify=self._environment.buggify,
        )

    def _make_snapshots(self, groups_max: int) -> Snapshots:
        return Snapshots(
            config=self._config,
            hello=self._hello,
            link_limits=self._link_limits,
            tls=self._boot.tls.peer,
            registry=self._registry,
            exchanger=self.exchanger,
            engine=self.engine,
            store=self._snapshot_store,
            groups_max=groups_max,
            loop=self._loop,
            counters=self._counters,
            generator=self._new_generator(),
            on_fatal=self._on_fatal,
            buggify=self._environment.buggify,
        )

    def _make_status(self) -> StatusGatherer:
        return StatusGatherer(
            self._config,
            self._shared,
            self._registry,
            self.exchanger,
            self._loop.call_later,
            self.engine.schedule,
            self._map.replacements,
        )

    def _make_router(self) -> Router:
        config = self._config
        return Router(
            node=config.node.id,
            shard=self._boot.shard,
            routes={group: config.members(group) for group in range(1, config.cluster.groups + 1)},
            services=self._services,
            post=self.exchanger,
            shard_counts=self._registry,
            shared=self._shared,
            request_timeout_seconds=config.client.request_timeout_seconds,
            now_seconds=self._loop.time,
            schedule=self.engine.schedule,
            batches_outstanding_max=config.raft.batches_in_flight_max,
            random_bits=self._environment.random_bits,
            buggify=self._environment.buggify,
        )

    def _add_group(self, group: int) -> None:
        try:
            if group == SYSTEM_GROUP:
                self._add_system_group()
            else:
                self._add_data_group(group)
        except Unservable as error:
            self._shared.group_words(group)[GroupWord.STATE] = GroupState.DAMAGED
            logger.error("group %d is not served: %s", group, error)
            if group == SYSTEM_GROUP:
                self._map.serve_without()

    def _add_data_group(self, group: int) -> None:
        replica, machine, _ = self._make_replica(group, KeyValueMachine)
        service = GroupService(
            replica,
            machine,
            self._clock,
            self._counters,
            self.engine.mark,
            self._answer,
            lambda: self.engine.is_disk_full,
        )
        self._services[group] = service
        self._machines[group] = machine
        self._take_in(replica, service)

    def _add_system_group(self) -> None:
        made = self._make_replica(SYSTEM_GROUP, ClusterMapMachine)
        self._take_in(made.replica, self._map.serve(made))

    def _make_replica(self, group: int, make_machine: Callable[[], Machine]) -> Made[Machine]:
        words = self._shared.group_words(group)
        words[GroupWord.STATE] = GroupState.STARTING
        return make_replica(
            self._config,
            group,
            store=self._store,
            snapshot_store=self._snapshot_store,
            make_machine=make_machine,
            words=words,
            on_route=self._on_route,
            progress=self._show_life,
            generator=self._new_generator(),
        )

    def _take_in(self, replica: Replica, service: ReplicaListener) -> None:
        replica.listener = service
        self._replay_targets[replica.group] = replica.hard_state.commit
        self.engine.add(replica)

    def _show_life(self) -> None:
        """Tell the supervisor that a long start goes on."""
        self._counters[Counter.HEARTBEAT] += 1

    def _group_condemned(self, group: int) -> None:
        """Serve a group no more whose log proved damaged; its other replicas do."""
        self._services.pop(group, None)
        self._machines.pop(group, None)
        self._replay_targets.pop(group, None)
        if group == SYSTEM_GROUP:
            self._map.serve_without()

    # Start ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen for peers and dial them, once this shard knows whom to let in.

        Raises OSError if the port cannot be had.
        """
        for shard, stream in self._boot.links.items():
            self.exchanger.attach_shard(shard, stream)
        await self._map.until_known()
        peer = self._config.peer
        await self.exchanger.start(peer.host, peer.shard_port(self._boot.shard))
        self._snapshots.start()

    def is_replayed(self) -> bool:
        """Whether every group has applied what its log says is committed."""
        replicas = self.engine.replicas
        targets = self._replay_targets
        for group in [g for g in targets if replicas[g].node.applied >= targets[g]]:
            del targets[group]
        return not targets

    async def open_client_listeners(self) -> None:
        """Let clients in."""
        await self._listeners.open()

    def reload_tls(self) -> None:
        """Read the TLS files again; new connections use what they say."""
        self._listeners.reload_tls()

    # Time -------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Advance raft and the router's retries by one tick."""
        try:
            self._map.tick()
            if not self._map.is_shut_out:
                self.engine.tick()
            self._router.tick()
            if self._first_leader_ticks and not self._map.is_shut_out:
                self._campaign_first()
        except Exception as error:  # noqa: BLE001 - a broken invariant stops the shard
            self._on_fatal(error)

    def _campaign_first(self) -> None:
        """Stand for the groups that `raft.first_leader` gives to this node.

        With "spread" each group has one preferred node, so that leaders spread over the nodes.
        Only in the first election timeout after the start and while the group has no leader; a
        pre-vote finds out whether it has one that is not known here yet.
        """
        self._first_leader_ticks -= 1
        self.engine.for_each(self._campaign_if_first)

    def _campaign_if_first(self, replica: Replica) -> None:
        # An election that is under way is left alone: its own vote may be in a slow sync.
        node = replica.node
        if not node.leader and node.role is not Role.CANDIDATE and self._stands_first(replica):
            node.campaign()

    def _stands_first(self, replica: Replica) -> bool:
        if len(replica.voters) == 1:
            return True
        config = self._config
        rule = config.raft.first_leader
        preferred = config.members(replica.group)[0]
        is_chosen = rule == "self" or (rule == "spread" and preferred == config.node.id)
        return is_chosen and self._hears_quorum(replica) and self._map.is_welcome()

    def _hears_quorum(self, replica: Replica) -> bool:
        heard = {self._config.node.id}
        for node in replica.voters:
            shards = self._registry.shard_count(node)
            if shards and self.exchanger.is_up(node, shard_of_group(replica.group, shards)):
                heard.add(node)
        halves = replica.node.membership.halves
        return all(len(heard.intersection(half)) > len(half) // 2 for half in halves)

    def expire_due_keys(self) -> None:
        """Let the leaders of this shard remove keys whose deadline has passed."""
        self.engine.for_each(self._expire_due_keys_of)

    def _expire_due_keys_of(self, replica: Replica) -> None:
        service = self._services.get(replica.group)
        if service is not None:
            service.expire_due_keys()

    def advance_replacements(self) -> None:
        """Let the leaders of this shard take the next step where nodes are being replaced."""
        self._map.advance_replacements()

    def publish(self) -> None:
        """Store the counters that are not stored where they change."""
        counters = self._counters
        clients = self.front.clients
        counters[Counter.CLIENTS] = len(clients.connections)
        counters[Counter.CONNECTIONS_TOTAL] = clients.connections_total
        counters[Counter.COMMANDS_TOTAL] = clients.commands_total
        counters[Counter.REJECTED_TOTAL] = clients.rejected_total
        counters[Counter.PROTOCOL_ERRORS_TOTAL] = clients.protocol_errors_total
        transport = self.exchanger.counters
        counters[Counter.PEER_FRAMES_SENT_TOTAL] = transport.frames_sent_total
        counters[Counter.PEER_BYTES_SENT_TOTAL] = transport.bytes_sent_total
        counters[Counter.PEER_FRAMES_RECEIVED_TOTAL] = transport.frames_received_total
        counters[Counter.PEER_BYTES_RECEIVED_TOTAL] = transport.bytes_received_total
        counters[Counter.PEER_DROPPED_TOTAL] = transport.raft_dropped_total
        counters[Counter.HANDSHAKES_REFUSED_TOTAL] = transport.handshakes_refused_total
        counters[Counter.TLS_REFUSED_TOTAL] = transport.tls_refused_total
        counters[Counter.PEER_IDLE_TOTAL] = transport.connections_idle_total
        counters[Counter.PEER_LINKS_UP] = transport.links_up_total - transport.links_down_total
        pending = 0
        sessions = 0
        for group, replica in self.engine.replicas.items():
            if group not in self._replay_targets:
                replica.publish()
            pending += replica.proposals_count
            machine = self._machines.get(group)
            if machine is None:
                continue
            words = self._shared.group_words(group)
            words[GroupWord.KEYS] = machine.key_count
            words[GroupWord.EXPIRES] = machine.expires_count
            sessions += machine.session_count
        self._snapshots.publish()
        self._snapshots.look()
        counters[Counter.PROPOSALS_PENDING] = pending
        counters[Counter.SESSIONS] = sessions

    def _on_route(self, group: int, leader: int, term: int) -> None:
        """Publish a group's new leader to all shards of the node."""
        if leader:
            self._counters[Counter.LEADER_CHANGES_TOTAL] += 1
            logger.info("group %d: node %d leads in term %d", group, leader, term)
        self._shared.set_route(group, leader, term)

    # Between shards ---------------------------------------------------------------------------

    def _on_raft(self, node: int, shard: int, items: list[Any]) -> None:
        if self._map.is_shut_out:
            return
        try:
            self.engine.receive(node, shard, items)
        except DecodeError as error:
            raise PayloadError(str(error)) from error
        except InvariantError as error:
            self._on_fatal(error)

    def _on_requests(self, node: int, shard: int, items: list[Any]) -> None:
        for item in items:
            request = decode_request(item, (node, shard))
            service = self._services.get(request.batch.group)
            if service is not None:
                service.submit(request)
                continue
            leader, term = 0, 0
            if 1 <= request.batch.group <= self._config.cluster.groups:
                leader, term = self._shared.route(request.batch.group)
            self._answer(request, not_executed(request, Status.NOT_LEADER, leader, term))

    def _on_replies(self, _node: int, _shard: int, items: list[Any]) -> None:
        for item in items:
            self._router.complete(decode_reply(item))

    def _on_admin(self, node: int, shard: int, items: list[Any]) -> None:
        self._status.receive(node, shard, items)

    def _on_map(self, node: int, shard: int, items: list[Any]) -> None:
        self._map.receive(node, shard, items)

    def _answer(self, request: Request, reply: Reply) -> None:
        """Bring an answer to the router that asked: this shard's own, or one behind a link."""
        if request.origin is None:
            self._router.complete(reply)
            return
        self._answers.send(*request.origin, reply)
        self.engine.schedule()

    def _on_link_state(self, node: int, shard: int, is_up: bool) -> None:
        if not is_up and node != self._config.node.id:
            self.engine.report_unreachable(node, shard)
        self._map.link_changed(node, shard, is_up)
        self._answers.link_changed(node, shard, is_up)
        self._status.link_changed(node, shard, is_up)
        self._router.link_changed(node, shard, is_up)
        self.engine.schedule()

    # The end ----------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Accept nobody new, close idle connections, let the others get their replies."""
        self._listeners.close()
        for connection in list(self.front.clients.connections.values()):
            connection.close_after_replies()
        self.engine.schedule()

    def housekeep(self) -> None:
        """Look after the log, and tell of the links. Called once a second."""
        publish_peers(self._shared, self._boot.shard, self.exchanger)
        self.engine.publish_storage()
        self.engine.housekeep()
        if self.engine.is_disk_full:
            # Other nodes may have room.
            self.hand_over_leadership()

    def hand_over_leadership(self) -> None:
        """Ask the best follower of each group that is led here to take over."""
        self.engine.for_each(_hand_over)

    def is_drained(self) -> bool:
        """Whether no client of this node waits, and no group that others could lead is led here.

        Clients of the node's other shards count too: their commands may need a group of this one.
        """
        busy = sum(
            connection.unanswered_commands > 0 or connection.write_buffer_bytes > 0
            for connection in self.front.clients.connections.values()
        )
        self._counters[Counter.CLIENTS] = busy  # the idle ones are being closed
        return (
            not self._shared.total(Counter.CLIENTS)
            and self._router.is_idle
            and not any(
                replica.is_leader and len(replica.voters) > 1
                for replica in self.engine.replicas.values()
            )
        )

    async def close(self) -> None:
        """Close connections, links and the log. What was acknowledged is on disk already."""
        self._listeners.close()
        await self._snapshots.close()
        self.engine.close()
        await self.exchanger.close()
        self._store.close()


def _hand_over(replica: Replica) -> None:
    if replica.is_leader and len(replica.voters) > 1:
        target = _most_advanced_follower(replica.node)
        if target:
            with contextlib.suppress(TransferRefused):
                replica.node.transfer_leadership(target)


def _most_advanced_follower(node: RawNode) -> int:
    """Return the voter whose log has come furthest and who was heard of lately, 0 if none."""
    best, best_match = 0, -1
    for peer, progress in sorted(node.status().progress.items()):
        is_candidate = peer != node.node_id and node.membership.is_voter(peer)
        if is_candidate and progress.recent_active and progress.match > best_match:
            best, best_match = peer, progress.match
    return best
