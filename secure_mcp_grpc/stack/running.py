"""The whole stack as a context: up while the block runs."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

from secure_mcp_grpc.stack.compose import compose
from secure_mcp_grpc.stack.home import Home
from secure_mcp_grpc.stack.hosted import Hosted
from secure_mcp_grpc.stack.supervisor import Supervisor, hold_lock

__all__ = ["running"]


@contextlib.asynccontextmanager
async def running(
    home: Home,
    document: dict[str, Any],
    *,
    stopping: asyncio.Event,
    without: tuple[str, ...] = (),
    hosted: Sequence[Hosted] = (),
    log_dir: Path | None,
) -> AsyncIterator[None]:
    """The whole stack, up while the block runs; a `stopping` that is set meanwhile cuts the start short.

    Parts log to our stderr, or to files in `log_dir`; those in `hosted` run in this process.
    """
    home.prepare()
    with contextlib.ExitStack() as stack:
        stack.enter_context(hold_lock(home.run_dir))
        stages = stack.enter_context(
            compose(home, document, without=without, hosted=hosted, text_logs=sys.stderr.isatty())
        )

        def output(part: str) -> Any:
            if log_dir is None:
                return sys.stderr
            return stack.enter_context((log_dir / f"{part}.log").open("a", encoding="utf-8"))

        supervisor = Supervisor(stages, home.run_dir, output)
        try:
            await _unless(stopping, supervisor.start())
            yield
        finally:
            await supervisor.stop()


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, but give it up as soon as `stopping` is set."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
