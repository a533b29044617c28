"""Clients that write unique values while nodes die, and remember what was acknowledged."""

import threading
from collections.abc import Sequence
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SOCKET_SECONDS = 10.0
PAUSE_SECONDS = 0.1


def connect(port: int, protocol: int = 2, seconds: float = SOCKET_SECONDS) -> redis.Redis:
    """Return a redis-py client that repeats nothing by itself."""
    return redis.Redis(
        host="127.0.0.1",
        port=port,
        protocol=protocol,
        socket_timeout=seconds,
        socket_connect_timeout=2.0,
        retry=Retry(NoBackoff(), 0),
    )


class Writer(threading.Thread):
    """One client: SET of a new key and value, again and again, at whichever node answers.

    It writes as fast as it is answered, or rests for `rest_seconds` after each answer.

    `acknowledged` holds what was answered OK; of everything else nothing is known.
    """

    def __init__(
        self, number: int, ports: Sequence[int], pipeline: int = 1, rest_seconds: float = 0.0
    ) -> None:
        super().__init__(name=f"writer-{number}", daemon=True)
        self.number = number
        self.acknowledged: dict[str, str] = {}
        self.errors: dict[str, int] = {}
        self._ports = ports
        self._pipeline = pipeline
        self._rest_seconds = rest_seconds
        self._stop_asked = threading.Event()
        self._sequence = 0

    def run(self) -> None:
        """Write until stopped."""
        at = self.number
        while not self._stop_asked.is_set():
            client = connect(self._ports[at % len(self._ports)])
            at += 1
            try:
                while not self._stop_asked.is_set():
                    self._write(client)
                    self._stop_asked.wait(self._rest_seconds)
            except redis.RedisError as error:
                name = f"{type(error).__name__}: {str(error).split(' ')[0]}"
                self.errors[name] = self.errors.get(name, 0) + 1
                self._stop_asked.wait(PAUSE_SECONDS)
            finally:
                client.close()

    def _write(self, client: redis.Redis) -> None:
        batch = {}
        for _ in range(self._pipeline):
            self._sequence += 1
            batch[f"w{self.number}:{self._sequence}"] = f"{self.number}-{self._sequence}"
        if len(batch) == 1:
            ((key, value),) = batch.items()
            client.set(key, value)
            self.acknowledged[key] = value
            return
        pipeline = client.pipeline(transaction=False)
        for key, value in batch.items():
            pipeline.set(key, value)
        results = pipeline.execute(raise_on_error=False)
        for (key, value), result in zip(batch.items(), results, strict=True):
            if result is True:
                self.acknowledged[key] = value
        for result in results:
            if isinstance(result, Exception):
                raise redis.RedisError(str(result))

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._stop_asked.set()
        self.join(SOCKET_SECONDS + 10)
        assert not self.is_alive(), f"{self.name} hangs"


class Workload:
    """Several writers; a context manager that stops them."""

    def __init__(
        self,
        ports: Sequence[int],
        writers: int = 8,
        pipeline: int = 1,
        rest_seconds: float = 0.0,
    ) -> None:
        self.writers = [Writer(number, ports, pipeline, rest_seconds) for number in range(writers)]

    def __enter__(self) -> Self:
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.stop()

    @property
    def acknowledged_count(self) -> int:
        """How many writes were acknowledged so far."""
        return sum(len(writer.acknowledged) for writer in self.writers)

    def has_more_than(self, count: int) -> bool:
        """Whether more than `count` writes were acknowledged by now."""
        return self.acknowledged_count > count

    def acknowledged(self) -> dict[str, str]:
        """Return every acknowledged key and value; call it once the writers have ended."""
        return {key: value for w in self.writers for key, value in w.acknowledged.items()}

    def errors(self) -> dict[str, int]:
        """Return how often each kind of error was seen."""
        total: dict[str, int] = {}
        for writer in self.writers:
            for name, count in writer.errors.items():
                total[name] = total.get(name, 0) + count
        return total


def missing_writes(port: int, acknowledged: dict[str, str]) -> list[str]:
    """Read every acknowledged key at one node and return those that are not there as written."""
    client = connect(port, seconds=30.0)
    missing = []
    keys = list(acknowledged)
    for start in range(0, len(keys), 500):
        chunk = keys[start : start + 500]
        pipeline = client.pipeline(transaction=False)
        for key in chunk:
            pipeline.get(key)
        for key, value in zip(chunk, pipeline.execute(), strict=True):
            if value != acknowledged[key].encode():
                missing.append(f"{key}: {value!r}")
    client.close()
    return missing
