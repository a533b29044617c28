"""Tests of rafterd.client_listeners; refused clients are in test_tls.py of the cluster."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from rafterd.node_tls import TlsUpdate
from tests.daemon.engine_bench import run, turns, until
from tests.daemon.shard_kit import RunningServices, make_config
from tests.daemon.waiting import DEADLINE_SECONDS


def test_every_shard_listens_on_its_own_port_and_on_the_common_one(tmp_path: Path) -> None:
    async def main() -> None:
        config = make_config(tmp_path, groups=1)
        async with RunningServices(config) as running:
            await running.lead()
            await running.services.open_client_listeners()
            clients = [
                await asyncio.open_connection(config.client.host, port)
                for port in (config.client.port, config.client.shard_port(0))
            ]
            for reader, writer in clients:
                writer.write(b"SET k v\r\nGET k\r\n")
                assert await reader.readexactly(12) == b"+OK\r\n$1\r\nv\r\n"
            running.services.begin_drain()
            for reader, writer in clients:
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(config.client.host, config.client.port)
            await until(lambda: not running.services.front.clients.connections)
            assert running.services.is_drained()

    run(main())


def test_of_two_reads_of_the_tls_files_the_later_counts_whichever_ends_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with RunningServices(make_config(tmp_path)) as running:
            first, second = TlsUpdate(None, None), TlsUpdate(None, None)
            used: list[TlsUpdate] = []
            is_begun, is_released, is_over = (threading.Event() for _ in range(3))

            def read() -> TlsUpdate:
                if is_begun.is_set():
                    return second
                is_begun.set()
                is_released.wait(DEADLINE_SECONDS)
                is_over.set()
                return first

            monkeypatch.setattr(running.boot.tls, "read", read)
            monkeypatch.setattr(running.boot.tls, "use", used.append)
            running.services.reload_tls()
            await until(is_begun.is_set)
            running.services.reload_tls()
            await until(lambda: used)
            is_released.set()
            await until(is_over.is_set)
            await turns()
            assert [update is second for update in used] == [True]

    run(main())
