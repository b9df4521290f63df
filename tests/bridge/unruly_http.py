"""An MCP server over streamable HTTP, written on bare sockets, that misbehaves on request in either era.

Each tool is one kind of misbehaviour; `echo` behaves.
"""

import asyncio
import contextlib
import json
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asked:
    """One HTTP request as it came, and the way to answer it."""

    method: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    @property
    def message(self) -> dict[str, Any]:
        return json.loads(self.body) if self.body else {}

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def head(self, status: str = "200 OK", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        await self.raw("\r\n".join([*lines, "connection: close", "", ""]).encode())

    async def json(self, text: str | bytes, status: str = "200 OK", **headers: str) -> None:
        body = text if isinstance(text, bytes) else text.encode()
        headers = {"content_type": "application/json", "content_length": str(len(body))} | headers
        await self.head(status, **headers)
        await self.raw(body)

    async def result(self, result: Any, **headers: str) -> None:
        await self.json(json.dumps({"jsonrpc": "2.0", "id": self.message["id"], "result": result}), **headers)

    async def text(self, text: str) -> None:
        await self.result({"content": [{"type": "text", "text": text}]})

    async def stream(self, **headers: str) -> None:
        await self.head(content_type="text/event-stream", **headers)

    async def event(self, data: str | bytes, *, id: str = "", retry: int | None = None) -> None:  # noqa: A002
        lines = b"".join(
            [f"id: {id}\n".encode() if id else b"", f"retry: {retry}\n".encode() if retry is not None else b""]
        )
        body = data if isinstance(data, bytes) else data.encode()
        await self.raw(lines + b"data: " + body + b"\n\n")

    async def gone(self) -> None:
        """Until the client closes the connection."""
        reader = self.writer.get_extra_info("reader")
        if reader is not None:
            with contextlib.suppress(ConnectionError):
                await reader.read()


Answer = Callable[[Asked], Awaitable[None]]


@dataclass
class HttpServer:
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    open: int = 0

    def count(self, method: str, rpc: str = "") -> int:
        return sum(one.method == method and (not rpc or one.message.get("method") == rpc) for one in self.asked)


@contextlib.asynccontextmanager
async def http_server(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[HttpServer]:
    """`answer` serves every request; the connection closes after it."""
    server = HttpServer()
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        server.open += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            writer.transport.get_extra_info = lambda _name, default=None: reader  # type: ignore[method-assign]
            asked = Asked(first.partition(" ")[0], headers, body, writer)
            server.asked.append(asked)
            await answer(asked)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            server.open -= 1
            serving.discard(task)
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp"
    try:
        yield server
    finally:
        listening.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def misbehave(asked: Asked) -> None:  # noqa: C901 - a table of misdeeds
    if asked.method != "POST":
        await asked.head("405 Method Not Allowed" if asked.method == "GET" else "200 OK", content_length="0")
        return
    message = asked.message
    if "id" not in message:
        await asked.head("202 Accepted", content_length="0")
        return
    id_ = message["id"]
    match message["method"]:
        case "initialize":
            info = {"name": "unruly", "version": "1"}
            said = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": info}
            await asked.result(said, mcp_session_id="session-1")
            return
        case "tools/list":
            await asked.result({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]})
            return
    match message["params"]["name"]:
        case "crash":
            asked.writer.transport.abort()
        case "hang":
            await asked.gone()
        case "garbage":
            await asked.json("this is not JSON")
        case "garbage_event":
            await asked.stream()
            await asked.event("this is not JSON")
        case "huge":
            await asked.text("x" * 3_000_000)
        case "huge_event":
            await asked.stream()
            await asked.event('{"jsonrpc":"2.0","id":1,"result":{"text":"' + "x" * 3_000_000 + '"}}')
        case "endless_event":
            await asked.stream()
            while not asked.writer.is_closing():
                await asked.raw(b"data: " + b"x" * 100_000)
        case "bomb":
            body = _gzip(b'{"jsonrpc":"2.0","id":1,"result":{"text":"' + b"x" * 50_000_000 + b'"}}')
            await asked.json(body, content_encoding="gzip")
        case "bomb_event":
            await asked.stream(content_encoding="gzip")
            await asked.raw(_gzip(b"data: " + b"x" * 50_000_000 + b"\n\n"))
        case "double_bomb":
            await asked.json(_gzip(_gzip(b"x" * 50_000_000)), content_encoding="gzip, gzip")
        case "odd_encoding":
            await asked.json(b"anything", content_encoding="br")
        case "not_utf8":
            await asked.json(b'{"jsonrpc":"2.0","id":%d,"result":{"text":"\xff\xfe"}}' % id_)
        case "not_utf8_event":
            await asked.stream()
            await asked.event(b'{"jsonrpc":"2.0","id":%d,"result":{"text":"\xff\xfe"}}' % id_)
        case "two_results":
            await asked.json(f'{{"jsonrpc":"2.0","id":{id_},"result":{{"isError":true}},"result":{{}}}}')
        case "two_members":
            await asked.json(f'{{"jsonrpc":"2.0","id":{id_},"result":{{"content":[],"isError":true,"IsError":false}}}}')
        case "two_metas":
            await asked.json(f'{{"jsonrpc":"2.0","id":{id_},"result":{{"content":[],"_meta":{{"a":1,"a":2}}}}}}')
        case "deep":
            await asked.json(f'{{"jsonrpc":"2.0","id":{id_},"result":{"[" * 200_000}{"]" * 200_000}}}')
        case "only_unasked":
            await asked.json('{"jsonrpc":"2.0","id":987654,"result":{}}')
        case "only_unasked_event":
            await asked.stream()
            await asked.event('{"jsonrpc":"2.0","id":987654,"result":{}}')
        case "request_as_answer":
            await asked.json(f'{{"jsonrpc":"2.0","id":{id_},"method":"sampling/createMessage"}}')
        case "unasked":
            await asked.stream()
            await asked.event('{"jsonrpc":"2.0","id":987654,"result":{}}')
            await asked.event(json.dumps({"jsonrpc": "2.0", "id": id_, "result": _text("asked")}))
        case "notes":
            await asked.stream()
            for _ in range(1500):
                await asked.event('{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"x"}}')
            await asked.event(json.dumps({"jsonrpc": "2.0", "id": id_, "result": _text("after the notes")}))
        case "endless_notes":
            await asked.stream()
            token, padding, number = message["params"]["_meta"]["progressToken"], "x" * 10_000, 0
            while not asked.writer.is_closing():
                said = {"progressToken": token, "progress": number, "message": padding}
                await asked.event(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": said}))
                number += 1
        case "guessed_tokens":
            await asked.stream()
            for token in (*range(1, 40), "one", None, [], {}):
                params = {"progressToken": token, "progress": 1}
                await asked.event(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))
            await asked.event(json.dumps({"jsonrpc": "2.0", "id": id_, "result": _text("guessed")}))
        case "half_body":
            await asked.head(content_type="application/json", content_length="1000")
            await asked.raw(b'{"jsonrpc":"2.0",')
        case "slow_loris":
            await asked.head(content_type="application/json", content_length="1000000")
            while not asked.writer.is_closing():
                await asked.raw(b" ")
                await asyncio.sleep(0.05)
        case "endless_comments":
            await asked.stream()
            while not asked.writer.is_closing():
                await asked.raw(b": nothing\n\n")
                await asyncio.sleep(0.01)
        case "wrong_type":
            await asked.json("<html>hello</html>", content_type="text/html")
        case "no_content":
            await asked.head("204 No Content")
        case "not_http":
            await asked.raw(b"220 smtp.example.com ESMTP\r\n")
        case "long_header":
            await asked.raw(b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 1_000_000)
        case "redirect":
            await asked.head("307 Temporary Redirect", location="http://127.0.0.1:1/elsewhere", content_length="0")
        case "server_error":
            await asked.json("oh no", "500 Internal Server Error", content_type="text/plain")
        case "twice":
            await asked.stream()
            for text in ("first", "second"):
                await asked.event(json.dumps({"jsonrpc": "2.0", "id": id_, "result": _text(text)}))
        case _:
            await asked.text(json.dumps(message["params"].get("arguments")))


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()
