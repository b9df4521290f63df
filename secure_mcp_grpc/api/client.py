"""`SecureMCPClient`: an MCP client over gRPC without the SDK's context managers, for applications that call tools."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import BaseModel, ConfigDict

from secure_mcp_grpc.api.providers import AuthProvider, Calling, Token
from secure_mcp_grpc.api.tracer import InteractionTracer

if TYPE_CHECKING:
    import mcp

__all__ = ["MCPResponse", "SecureMCPClient"]

_RENEW_EVERY_S: Final = 1.0
_WRAPPED: Final = {"result"}
"""What the SDK's servers wrap a plain return value in, so that structured content is an object."""


class _AnyResult(BaseModel):
    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True, slots=True)
class MCPResponse:
    """What came back for one request."""

    result: Any
    """A tool's structured value, or the text of its answer; for any other method the result as MCP has it."""
    raw: Mapping[str, Any]
    """The whole result, as JSON."""
    is_error: bool = False
    """The tool itself says that it failed; `result` is then its text."""


class SecureMCPClient:
    """Speaks to the sidecar at `host:port` as whom `auth_provider` says.

    `server_id` is the SPIFFE ID that the server must have. `connect` and
    `close` may be called in any task; `async with` does both. `tracer`
    records each request and response. Calls raise `mcp.MCPError`: a refusal by
    the sidecar names its gRPC status in `error.data["grpcStatus"]`.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 50051,
        auth_provider: AuthProvider | None = None,
        *,
        server_id: str | None = None,
        tracer: InteractionTracer | None = None,
        **transport: Any,
    ) -> None:
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._provider = auth_provider
        self._transport = {"server_id": server_id, **transport}
        self._tracer = tracer
        self._client: mcp.Client | None = None
        self._closing = asyncio.Event()
        self._living: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect and agree on a protocol version. Raises `UserError`, `ConnectionError` or `mcp.MCPError`."""
        if self._living is not None:
            return
        self._closing.clear()
        connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._living = asyncio.create_task(self._live(connected), name="SecureMCPClient")
        try:
            await connected
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the session; a client that is not connected stays so."""
        living, self._living = self._living, None
        if living is not None:
            self._closing.set()
            await asyncio.gather(living, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def session(self) -> "mcp.Client":
        """The SDK's client, for all that MCP has; raises `RuntimeError` while not connected."""
        if self._client is None:
            raise RuntimeError("not connected: await client.connect() first")
        return self._client

    async def send_request(self, method: str, params: Mapping[str, Any] | None = None) -> MCPResponse:
        """Call the tool `method`, or send the MCP request of that name, such as `resources/read` or `tools/call`."""
        client = self.session
        is_mcp = "/" in method or method == "ping"
        if not is_mcp:
            method, params = "tools/call", {"name": method, "arguments": dict(params or {})}
        if self._tracer is None:
            return await _send(client, method, params)
        async with self._tracer.tracing(method, params) as answer:
            response = await _send(client, method, params)
            answer.append(response.raw)
            return response

    async def _live(self, connected: "asyncio.Future[None]") -> None:
        """The SDK's context managers, entered and left by one task."""
        import mcp

        from mcp_bridge.client import grpc_transport

        try:
            calling = self._provider.calling() if self._provider is not None else Calling(None)
            async with (
                _token(calling) as token,
                mcp.Client(
                    grpc_transport(self._address, identity=calling.identity, token=token, **self._transport)
                ) as self._client,
            ):
                if not connected.done():
                    connected.set_result(None)
                await self._closing.wait()
        except BaseException as error:
            if connected.done():
                raise
            connected.set_exception(_leaf(error))
        finally:
            self._client = None


@contextlib.asynccontextmanager
async def _token(calling: Calling) -> AsyncIterator[Token | None]:
    """The token of `calling`, kept fresh while the block runs where an issuer gives it."""
    source = calling.source
    if source is None:
        yield calling.token
        return
    from mcp_bridge.connect.tokens import NoToken

    held = [await source.token()]

    async def keep() -> None:
        while True:
            await asyncio.sleep(_RENEW_EVERY_S)
            with contextlib.suppress(NoToken):  # the one in hand may still do; the sidecar says when it does not
                held[0] = await source.token()

    keeping = asyncio.create_task(keep(), name="SecureMCPClient token")
    try:
        yield lambda: held[0]
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await source.close()


async def _send(client: "mcp.Client", method: str, params: Mapping[str, Any] | None) -> MCPResponse:
    if method == "tools/call":
        named = dict(params or {})
        result = await client.call_tool(str(named.get("name", "")), named.get("arguments") or {})
        return _tool_response(result.model_dump(by_alias=True, mode="json", exclude_none=True))
    from mcp_types import Request

    request = Request[Any, Any](method=method, params=dict(params) if params is not None else None)
    raw = (await client.session.send_request(request, _AnyResult)).model_dump(mode="json")
    return MCPResponse(raw, raw)


def _tool_response(raw: Mapping[str, Any]) -> MCPResponse:
    texts = [block.get("text", "") for block in raw.get("content", []) if block.get("type") == "text"]
    failed = bool(raw.get("isError"))
    structured = raw.get("structuredContent")
    if structured is None or failed:
        return MCPResponse("\n".join(texts), raw, failed)
    value = structured["result"] if isinstance(structured, dict) and structured.keys() == _WRAPPED else structured
    return MCPResponse(value, raw)


def _leaf(error: BaseException) -> BaseException:
    """What one request met, without the task groups of the SDK around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
