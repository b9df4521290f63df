"""A part inside the supervisor's own process: the bridge of an application that brings its MCP server along."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.stack.part import PartState, State

__all__ = ["Hosted", "HostedPart"]

_START_TIMEOUT_S = 30.0
_PROBE_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Hosted:
    """`serve` runs the part until its event is set; `probe` tells, for our own process id, whether it is ready."""

    name: str
    serve: Callable[[asyncio.Event], Awaitable[None]]
    probe: Callable[[int], Awaitable[bool]]
    stop_timeout_s: float = 5.0


class HostedPart:
    """As `RunningPart`, but a task. It is not started again: what ends it is a fault of this process."""

    def __init__(self, spec: Hosted, on_change: Callable[[PartState], None]) -> None:
        self.spec = spec
        self.state = PartState(spec.name, "stopped", time.time())
        self._on_change = on_change
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises what `serve` raises, and `UserError` where it is not ready in time."""
        self._set("starting")
        self._task = asyncio.create_task(self._serve(), name=self.spec.name)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not await self.spec.probe(os.getpid()):
                    if self._task.done():
                        await self._task
                        raise UserError(f"{self.spec.name} ended while starting")
                    await asyncio.sleep(_PROBE_EVERY_S)
        except TimeoutError:
            raise UserError(f"{self.spec.name} was not ready within {_START_TIMEOUT_S:.0f} s") from None
        self._set("ready")

    async def watch(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._stopping.is_set():
                self._set("stopped", "ended by itself")

    async def stop(self) -> None:
        self._stopping.set()
        if self._task is not None:
            self._set("stopping")
            await asyncio.wait([self._task], timeout=self.spec.stop_timeout_s)
            self.kill()
            await asyncio.gather(self._task, return_exceptions=True)
        self._set("stopped")

    def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        await self.spec.serve(self._stopping)

    def _set(self, state: State, why: str = "") -> None:
        self.state = PartState(self.spec.name, state, time.time(), why, os.getpid())
        self._on_change(self.state)
