"""Starts the parts in order, keeps them alive, stops them in the reverse order of the data's way.

Start: what others need comes first. Stop: Envoy stops listening and drains,
then bridge and authz, then the sink flushes, then the store closes.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import announcement_path, write_by_rename
from secure_mcp_grpc.stack.hosted import Hosted, HostedPart
from secure_mcp_grpc.stack.part import PartSpec, PartState, RunningPart

__all__ = ["STATE_FILE", "Supervisor", "hold_lock", "read_state"]

STATE_FILE = "supervisor.json"
logger = logging.getLogger(__name__)


class Supervisor:
    """Runs `stages`: parts of one stage start together, stages one after the other; stopping goes backwards.

    Every change of state is logged and written to `<run_dir>/supervisor.json`.
    """

    def __init__(
        self, stages: Sequence[Sequence[PartSpec | Hosted]], run_dir: Path, output: Callable[[str], TextIO]
    ) -> None:
        self._run_dir = run_dir
        self._states: dict[str, PartState] = {}
        self._output = output
        self._stages = [[self._part(spec) for spec in stage] for stage in stages]
        self._watching: list[asyncio.Task[None]] = []

    @property
    def parts(self) -> dict[str, RunningPart | HostedPart]:
        return {part.spec.name: part for stage in self._stages for part in stage}

    def _part(self, spec: PartSpec | Hosted) -> RunningPart | HostedPart:
        if isinstance(spec, Hosted):
            return HostedPart(spec, self._changed)
        return RunningPart(spec, self._changed, self._output(spec.name))

    async def start(self) -> None:
        """Start every part; on failure nothing is left running and the first `UserError` is raised."""
        try:
            for stage in self._stages:
                await _gather([part.start() for part in stage])
                self._watching += [asyncio.create_task(part.watch(), name=part.spec.name) for part in stage]
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop every part, last stage first."""
        try:
            for stage in reversed(self._stages):
                await _gather([part.stop() for part in stage])
        finally:
            for part in self.parts.values():
                part.kill()
            for task in self._watching:
                task.cancel()
            await asyncio.gather(*self._watching, return_exceptions=True)
            self._sweep()

    def _sweep(self) -> None:
        """Remove what a part that was killed could not: its socket and its announcement."""
        (self._run_dir / STATE_FILE).unlink(missing_ok=True)
        for part in self.parts:
            announcement_path(self._run_dir, part).unlink(missing_ok=True)
        for path in self._run_dir.iterdir():
            if path.is_socket():
                path.unlink()

    def _changed(self, state: PartState) -> None:
        level = logging.WARNING if state.state == "restarting" else logging.INFO
        fields = {"why": state.why} if state.why else {}
        logs.event(logger, level, f"part_{state.state}", part=state.name, **fields)
        self._states[state.name] = state
        document = {"pid": os.getpid(), "parts": {name: asdict(known) for name, known in self._states.items()}}
        try:
            write_by_rename(self._run_dir / STATE_FILE, json.dumps(document).encode(), mode=0o600)
        except OSError as error:  # the file is for `health`; parts are started and stopped all the same
            logs.event(logger, logging.WARNING, "state_not_written", error=error.strerror)


def read_state(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Part → its `PartState` as a dict, as the supervisor wrote it last; empty when no supervisor is alive."""
    try:
        document = json.loads((run_dir / STATE_FILE).read_bytes())
        os.kill(document["pid"], 0)
    except (FileNotFoundError, ProcessLookupError, json.JSONDecodeError):
        return {}
    parts = document["parts"]
    return parts if isinstance(parts, dict) else {}


async def _gather(coroutines: list) -> None:  # type: ignore[type-arg]  # coroutines of any kind
    """Run all to their end, then raise the first error, if any."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


@contextlib.contextmanager
def hold_lock(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir` for this supervisor; raises `UserError` naming the process that already does."""
    path = run_dir / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise UserError(f"{run_dir} is in use by process {owner}; stop it or name another directory") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
