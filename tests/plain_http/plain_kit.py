"""A sidecar that serves plain HTTP, SDK clients with a client certificate, and raw connections without manners."""

import contextlib
import json
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx2
import mcp
from chain_stack import POLICY, TRUST_DOMAIN, Stack, make_home, running
from mcp.client.streamable_http import streamable_http_client

from secure_mcp_grpc import certs

SERVER = Path(__file__).parent / "plain_server.py"
MODERN = "2026-07-28"
HANDSHAKE = "2025-11-25"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
PLAIN_POLICY = (
    POLICY
    + """\
p, role:user, tools/call, ask, allow
p, role:user, tools/call, wait, allow
p, role:user, tools/call, change, allow
g, model-c, role:user
"""
)
ACCEPT = "application/json, text/event-stream"


@contextlib.contextmanager
def plain_stack(
    changes: Mapping[str, Mapping[str, Any]] | None = None, without: tuple[str, ...] = ()
) -> Iterator[Stack]:
    """`streamable_http` is on unless `changes` say otherwise; the journal of the asking server is `asker.txt`."""
    with tempfile.TemporaryDirectory(prefix="smg-") as directory:
        root = Path(directory)
        home = make_home(root)
        home.policy.write_text(PLAIN_POLICY)
        certs.issue(home.ca, home.certs / "model-c", "model-c", TRUST_DOMAIN)
        upstreams = {
            "recorder": _upstream(Path(__file__).parents[1] / "chain" / "recorder_server.py", "RECORDER_JOURNAL", root),
            "asker": _upstream(SERVER, "ASKER_JOURNAL", root),
        }
        base: dict[str, dict[str, Any]] = {
            "common": {"streamable_http": True},
            "bridge": {"upstreams": upstreams, "recheck_s": 0.5},
        }
        for section, values in (changes or {}).items():
            base[section] = {**base.get(section, {}), **values}
        with running(root, base, home, without=("dashboard", *without)) as stack:
            yield stack


def _upstream(program: Path, variable: str, root: Path) -> dict[str, Any]:
    name = "recorder.txt" if variable.startswith("RECORDER") else "asker.txt"
    return {"command": [sys.executable, str(program)], "env": {variable: str(root / name)}}


def asker_journal(stack: Stack) -> list[str]:
    path = stack.home.root / "asker.txt"
    return path.read_text().splitlines() if path.exists() else []


def tls(stack: Stack, identity: str | None, *protocols: str) -> ssl.SSLContext:
    directory = stack.home.certs / (identity or "model-a")
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    if identity:
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def url(stack: Stack) -> str:
    return f"https://localhost:{stack.address.rpartition(':')[2]}/mcp"


@contextlib.asynccontextmanager
async def client(
    stack: Stack, identity: str | None = "model-a", *, mode: Any = "auto", token: str = "", **options: Any
) -> AsyncIterator[mcp.Client]:
    """The real SDK client, as any application makes it: an HTTP client with a certificate, and the URL."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(verify=tls(stack, identity), headers=headers, timeout=30) as http_client,
        mcp.Client(streamable_http_client(url(stack), http_client=http_client), mode=mode, **options) as one,
    ):
        yield one


def message(
    method: str, params: Mapping[str, Any] | None = None, *, number: Any = 1, modern: bool = True
) -> dict[str, Any]:
    """A request; of 2026-07-28 unless told otherwise."""
    meta = {"_meta": META} if modern else {}
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": {**(params or {}), **meta}}


def echo(text: str, tool: str = "echo", **options: Any) -> dict[str, Any]:
    return message("tools/call", {"name": tool, "arguments": {"text": text}}, **options)


def mirrors(body: Mapping[str, Any]) -> dict[str, str]:
    """The headers of 2026-07-28 for an honest request."""
    params = body.get("params", {})
    name = params.get("name") or params.get("uri")
    found = {"mcp-protocol-version": MODERN, "mcp-method": str(body["method"])}
    return found | ({"mcp-name": name} if name else {})


@dataclass
class Reply:
    """What came back, or `closed` instead."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    closed: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


class Wire:
    """One TLS connection over which bytes go as they are, HTTP/1.1."""

    def __init__(self, stack: Stack, identity: str | None = "model-a") -> None:
        port = int(stack.address.rpartition(":")[2])
        plain = socket.create_connection(("127.0.0.1", port), 10)
        self.socket = tls(stack, identity, "http/1.1").wrap_socket(plain, server_hostname="localhost")
        self._held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> "Wire":
        with contextlib.suppress(OSError):
            self.socket.sendall(data)
        return self

    def read(self) -> Reply:
        """One answer with a length; the headers only of an event stream."""
        while b"\r\n\r\n" not in self._held:
            if not self._more():
                return Reply(closed=True)
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        reply = Reply(int(status.split()[1]), headers)
        length = int(headers.get("content-length", "0"))
        while len(self._held) < length and self._more():
            pass
        reply.body, self._held = self._held[:length], self._held[length:]
        return reply

    def read_until(self, text: bytes) -> bytes:
        while text not in self._held and self._more():
            pass
        return self._held

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        except ssl.SSLError:
            data = b""
        self._held += data
        return bool(data)


def http1(
    body: Any = b"",
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "POST",
    path: str = "/mcp",
    raw: str = "",
) -> bytes:
    """An HTTP/1.1 request. `headers` replace those of an honest one; an empty value leaves one out. `raw` is added."""
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    fields = {
        "host": "localhost",
        "content-type": "application/json",
        "accept": ACCEPT,
        "content-length": str(len(data)),
        **(mirrors(body) if isinstance(body, dict) and META in [body.get("params", {}).get("_meta")] else {}),
        **(headers or {}),
    }
    lines = "".join(f"{key}: {value}\r\n" for key, value in fields.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{lines}{raw}\r\n".encode() + data


def exchange(stack: Stack, data: bytes, identity: str | None = "model-a") -> Reply:
    with Wire(stack, identity) as wire:
        return wire.send(data).read()


def open_session(stack: Stack, identity: str = "model-a", version: str = HANDSHAKE) -> dict[str, str]:
    """The headers of a new session of the handshake era."""
    hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    reply = exchange(stack, http1(message("initialize", hello, modern=False)), identity)
    assert reply.status == 200, reply
    session = {"mcp-session-id": reply.headers["mcp-session-id"], "mcp-protocol-version": version}
    done = exchange(stack, http1({"jsonrpc": "2.0", "method": "notifications/initialized"}, session), identity)
    assert done.status == 202, done
    return session
