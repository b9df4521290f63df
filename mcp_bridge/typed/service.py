"""The gRPC service `model_context_protocol.Mcp` (typed, for stubs in any language), from Envoy to the executor.

Each RPC becomes stateless 2026-07-28 requests to the upstream; pages of lists
are drained. An MCP error becomes a gRPC status with `google.rpc` details.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import grpc
import msgspec
from google.protobuf.message import Message

from mcp_bridge import wire
from mcp_bridge.errors import HopError, overloaded, too_large
from mcp_bridge.exchange import Exchange
from mcp_bridge.execute import Executor
from mcp_bridge.serving import Call, Context, Routes
from mcp_bridge.typed.errors import hop_error, mcp_error
from mcp_bridge.typed.reading import CannotCarry
from mcp_bridge.typed.requests import REQUESTS, params_of
from mcp_bridge.typed.results import LISTS, SINGLE
from secure_mcp_grpc.typed_calls import TYPED, TYPED_VERSION, read_typed_call

__all__ = ["TypedService"]

_Made = TypeVar("_Made")

_MAX_PAGES: Final = 100
_MAX_ITEMS: Final = 20_000
_LARGE_BYTES: Final = 128 * 1024
"""Answers from here on are converted in a thread: that takes 10 ms and more, in which others wait."""


class TypedService:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._max_bytes = executor.max_answer_bytes

    def routes(self) -> Routes:
        return Routes(calls={f"{TYPED}{rpc}": self._handler(rpc) for rpc in REQUESTS})

    def _handler(self, rpc: str) -> Call:
        async def serve(message: bytes, context: Context) -> bytes:
            try:
                return await self.serve(rpc, message, context)
            except HopError as error:
                raise hop_error(error) from None

        return serve

    async def serve(self, rpc: str, message: bytes, context: Context) -> bytes:
        """One RPC of the service. Every page of a list is a request of its own, authorized by the same decision."""
        if rpc in SINGLE:
            answer = await self._ask(rpc, message, context, None)
            return await self._written(lambda: SINGLE[rpc](_result(answer)), len(answer))
        pages, size = await self._drain(rpc, message, context)
        return await self._written(lambda: LISTS[rpc][1](pages), size)

    async def _drain(self, rpc: str, message: bytes, context: Context) -> tuple[list[Any], int]:
        pages: list[Any] = []
        cursor: str | None = None
        size = items = 0
        while len(pages) < _MAX_PAGES:
            answer = await self._ask(rpc, message, context, cursor)
            size += len(answer)
            if size > self._max_bytes:
                raise too_large("the list", self._max_bytes)
            page = await _off_loop(partial(_result, answer), len(answer))
            listed = page.get(LISTS[rpc][0])
            items += len(listed) if isinstance(listed, list) else 0
            if items > _MAX_ITEMS:
                raise overloaded(f"the list has more than {_MAX_ITEMS} items")
            pages.append(page)
            cursor = page.get("nextCursor")
            if cursor is None:
                return pages, size
            if not isinstance(cursor, str):
                raise _NOT_MCP
        raise overloaded(f"the list has more than {_MAX_PAGES} pages")

    async def _ask(self, rpc: str, message: bytes, context: Context, cursor: str | None) -> bytes:
        answer, visit, _ = await self._executor.request(
            rpc, context.metadata, len(message), lambda: _exchange(rpc, message, cursor)
        )
        context.name_server(visit.server)
        if isinstance(answer, HopError):
            raise answer
        return answer

    async def _written(self, write: Callable[[], Message], size: int) -> bytes:
        def body() -> bytes:
            text: bytes = write().SerializeToString()
            return text

        try:
            written = await _off_loop(body, size)
        except CannotCarry as error:
            raise HopError(grpc.StatusCode.INTERNAL, str(error)) from None
        except (TypeError, AttributeError, ValueError, RecursionError):
            raise _NOT_MCP from None
        if len(written) > self._max_bytes:
            raise too_large("the answer", self._max_bytes)
        return written


_NOT_MCP: Final = HopError(grpc.StatusCode.INTERNAL, "the answer is not of MCP's form")


async def _off_loop(work: Callable[[], _Made], size: int) -> _Made:
    return work() if size < _LARGE_BYTES else await asyncio.to_thread(work)


def _exchange(rpc: str, message: bytes, cursor: str | None) -> Exchange:
    call = replace(read_typed_call(rpc, message), protocol_version=TYPED_VERSION)
    params = params_of(rpc, message, cursor)
    return Exchange(call, b"1", params, wire.read_meta(params))


def _result(answer: bytes) -> dict[str, Any]:
    """The result in a JSON-RPC response; raises `HopError`, also for the error in it."""
    try:
        decoded = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _NOT_MCP from None
    if isinstance(decoded, dict) and decoded.get("error") is not None:
        raise mcp_error(decoded["error"])
    result = decoded.get("result") if isinstance(decoded, dict) else None
    if not isinstance(result, dict):
        raise _NOT_MCP
    return result
