"""An issuer's HTTP server that a test makes behave as it likes, on a loopback port."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A complete HTTP answer; underscores in the names of headers become hyphens."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@dataclass
class UnrulyIssuer:
    """`pages` maps a path to its answer: bytes as they go over the wire, or None to hang."""

    url: str = ""
    pages: dict[str, bytes | None] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Method and path, the authorization header, the body."""
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request hangs."""
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.splitlines()[1:] if line)
            }
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            method, path, _ = head.split(" ", 2)
            self.requests.append((f"{method} {path}", fields.get("authorization", ""), body))
            page = self.pages.get(path, answer(b"", "404 Not Found"))
            if page is None:
                self.hanging.set()
                await reader.read()
            else:
                writer.write(page)
                await writer.drain()
        self.writers.discard(writer)
        writer.close()


@contextlib.asynccontextmanager
async def unruly_issuer(tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[UnrulyIssuer]:
    """A running one; on leaving, it is gone as if killed."""
    issuer = UnrulyIssuer()
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", port, ssl=tls)
    bound = server.sockets[0].getsockname()[1]
    issuer.url = f"{'https://localhost' if tls else 'http://127.0.0.1'}:{bound}"
    try:
        yield issuer
    finally:
        server.close()
        for writer in issuer.writers:
            writer.transport.abort()
        await server.wait_closed()
