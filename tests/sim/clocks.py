"""The clocks of a host: a monotonic one that may run fast or slow, a wall clock that jumps."""

from __future__ import annotations

from tests.sim.world import World

EPOCH_SECONDS = 1_700_000_000.0


class Clock:
    """Both clocks of a host."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rate = 1.0
        self._since_world = world.now
        self._since_local = 1000.0 + world.draw.random()
        self._wall_ahead = 0.0

    def seconds(self) -> float:
        """The monotonic clock, as an event loop has it."""
        return self._since_local + (self._world.now - self._since_world) * self._rate

    def world_seconds(self, local_seconds: float) -> float:
        """When the monotonic clock will show a time."""
        return self._since_world + (local_seconds - self._since_local) / self._rate

    def wall_seconds(self) -> float:
        """The wall clock: seconds since the epoch."""
        return EPOCH_SECONDS + self._wall_ahead + self.seconds()

    def drift(self, rate: float) -> None:
        """Let both clocks run `rate` times as fast as the world's from now on."""
        self._since_local = self.seconds()
        self._since_world = self._world.now
        self._rate = rate

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self._wall_ahead += seconds
