"""What a session's server says outside of requests, over whatever happens to the connection."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

import grpc

from mcp_bridge.client.channel import Channels
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["Metadata", "listen"]

Metadata = Sequence[tuple[str, str]]

_FIRST_RETRY_S: Final = 0.2
_LAST_RETRY_S: Final = 5.0
_TRY_AGAIN: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ALREADY_EXISTS})


async def listen(
    channels: Channels, session_id: str, metadata: Callable[[], Awaitable[Metadata]]
) -> AsyncGenerator[bytes, None]:
    """Messages until the session ends; connects again after losses. Raises `grpc.aio.AioRpcError` when refused."""
    retry_s = _FIRST_RETRY_S
    while True:
        endpoint = await channels.pick(session_id)
        call = endpoint.stubs.listen(pb.ListenRequest(session_id=session_id), metadata=await metadata())
        try:
            async for response in call:
                retry_s = _FIRST_RETRY_S
                yield response.message_json
            return
        except grpc.aio.AioRpcError as error:
            if error.code() not in _TRY_AGAIN:
                raise
            await channels.failed(endpoint)
        finally:
            call.cancel()
        await asyncio.sleep(retry_s)
        retry_s = min(retry_s * 2, _LAST_RETRY_S)
