"""`connect --http` as any HTTP client sees it: headers, statuses, sessions, and who may speak at all."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import full_server
import httpx2
import pytest
from bridge_harness import Bridge, serving, stdio
from connect_kit import (
    BOTH,
    INITIALIZE,
    Connected,
    Sidecar,
    answered,
    connected,
    event,
    events,
    legacy,
    mirrors,
    modern,
    open_session,
    seen_rpcs,
    sidecar,
)

from mcp_bridge.upstreams.inprocess import InProcessUpstream

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with serving(InProcessUpstream("full", full_server.server)) as one:
        yield one


@pytest.fixture
async def side(bridge: Bridge, tmp_path: Path) -> AsyncIterator[Sidecar]:
    async with sidecar(bridge, tmp_path) as one:
        yield one


@pytest.fixture
async def local(side: Sidecar) -> AsyncIterator[Connected]:
    allowed = ("--allow-host", "tools.example", "--allow-origin", "https://app.example")
    async with connected(side.address, "--max-request-bytes", "65536", *allowed) as one:
        yield one


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as one:
        yield one


LISTING = modern("tools/list")


STRANGERS = [
    {"host": "evil.example"},
    {"host": "evil.example:{port}"},
    {"host": "127.0.0.1:1"},
    {"host": "127.0.0.1"},
    {"host": "127.0.0.1:{port}.evil.example"},
    {"host": "localhost.evil.example:{port}"},
    {"host": "tools.example:1"},
    {"origin": "https://evil.example"},
    {"origin": "http://127.0.0.1.evil.example:{port}"},
    {"origin": "http://localhost"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "https://app.example.evil.example"},
    {"origin": "http://app.example"},
]
OWN = [
    {},
    {"host": "localhost:{port}"},
    {"host": "LOCALHOST:{port}"},
    {"host": "[::1]:{port}"},
    {"host": "tools.example:{port}"},
    {"origin": "http://127.0.0.1:{port}"},
    {"origin": "http://localhost:{port}"},
    {"origin": "https://app.example"},
]


def at(port: int, headers: dict[str, str]) -> dict[str, str]:
    return {name: value.replace("{port}", str(port)) for name, value in headers.items()}


async def test_page_with_a_rebound_name_is_refused(local: Connected, client: httpx2.AsyncClient, side: Sidecar) -> None:
    """Both specifications, "Security Warning": Origin MUST be validated; ours: Host, too; nothing is passed on."""
    for headers in STRANGERS:
        for method in ("POST", "GET", "DELETE", "OPTIONS"):
            sent = mirrors(LISTING) | at(local.port, headers)
            answer = await client.request(method, local.url, json=LISTING, headers=sent)

            assert answer.status_code == 403, (method, headers)
            assert answer.json()["error"]["code"] == -32600
            assert "access-control-allow-origin" not in answer.headers
    assert side.seen == []


async def test_own_names_and_allowed_ones_are_served(local: Connected, client: httpx2.AsyncClient) -> None:
    """Ours: the bound names with the port, and what --allow-host and --allow-origin add."""
    for headers in OWN:
        answer = await client.post(local.url, json=LISTING, headers=mirrors(LISTING) | at(local.port, headers))
        assert answer.status_code == 200, headers
        assert "tools" in answer.json()["result"]


async def test_two_host_or_origin_headers_are_refused(local: Connected) -> None:
    """Ours: two values are two readings."""
    body = json.dumps(LISTING)
    for doubled in ("Origin: http://127.0.0.1:{0}\r\nOrigin: https://evil.example", "Host: evil.example"):
        reader, writer = await asyncio.open_connection("127.0.0.1", local.port)
        lines = [f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{local.port}", doubled.format(local.port)]
        lines += [f"{name}: {value}" for name, value in mirrors(LISTING).items()]
        writer.write(("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]) + body).encode())
        status = (await reader.readline()).split()[1]
        assert status in (b"400", b"403")
        writer.close()
        await writer.wait_closed()


async def test_allowed_page_gets_what_browsers_ask_for(local: Connected, client: httpx2.AsyncClient) -> None:
    """Fetch Standard, CORS: preflight and answers name the origin, and the session header may be read."""
    page = {"origin": "https://app.example"}
    preflight = await client.options(local.url, headers=page | {"access-control-request-method": "POST"})
    assert preflight.status_code == 204
    assert "mcp-session-id" in preflight.headers["access-control-allow-headers"]
    answer = await client.post(local.url, json=legacy("initialize", INITIALIZE), headers=BOTH | page)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "mcp-session-id" in answer.headers["access-control-expose-headers"]
    refused = await client.options(local.url)
    assert refused.status_code == 405


def without(headers: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


CALL = modern("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
FUTURE = modern("tools/list", {"_meta": {"io.modelcontextprotocol/protocolVersion": "2099-01-01"}})
NO_CAPABILITIES = modern("tools/list")
del NO_CAPABILITIES["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]


BROKEN = [
    (CALL, mirrors(CALL) | {"mcp-method": "tools/list"}, 400, -32020),
    (CALL, without(mirrors(CALL), "mcp-method"), 400, -32020),
    (CALL, mirrors(CALL) | {"mcp-name": "echo"}, 400, -32020),
    (CALL, without(mirrors(CALL), "mcp-name"), 400, -32020),
    (CALL, mirrors(CALL) | {"mcp-name": "=?base64?YWRk=?="}, 400, -32020),
    (CALL, without(mirrors(CALL), "mcp-protocol-version"), 400, -32020),
    (CALL, mirrors(CALL) | {"mcp-protocol-version": "2025-11-25"}, 400, -32020),
    (FUTURE, mirrors(FUTURE), 400, -32020),
    (FUTURE, mirrors(FUTURE) | {"mcp-protocol-version": "2099-01-01"}, 400, -32022),
    (NO_CAPABILITIES, mirrors(CALL), 400, -32602),
    (legacy("tools/list"), mirrors(LISTING), 400, -32602),
    (modern("no/such"), mirrors(modern("no/such")), 404, -32601),
    ({"jsonrpc": "2.0", "id": 1, "result": {}}, mirrors(LISTING), 400, -32600),
    ([CALL], mirrors(CALL), 400, -32600),
    (b"{", mirrors(CALL), 400, -32700),
    (b'{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}', mirrors(CALL), 400, -32600),
    (CALL, without(mirrors(CALL), "accept"), 406, -32600),
    (CALL, mirrors(CALL) | {"accept": "application/json"}, 406, -32600),
    (CALL, mirrors(CALL) | {"accept": "application/json, text/event-stream;q=0"}, 406, -32600),
    (CALL, mirrors(CALL) | {"content-type": "text/plain"}, 415, -32600),
    (b"x" * 70_000, mirrors(CALL), 413, -32600),
    (legacy("tools/list"), BOTH, 400, -32600),
    (legacy("tools/list"), BOTH | {"mcp-session-id": "unknown"}, 404, -32001),
    (legacy("tools/list"), BOTH | {"mcp-session-id": "a b"}, 400, -32600),
    (legacy("tools/list"), BOTH | {"mcp-protocol-version": "1999-01-01"}, 400, -32602),
    ({"jsonrpc": "2.0", "method": "notifications/initialized"}, BOTH, 400, -32600),
]


async def test_request_that_breaks_a_rule_is_refused_by_its_name(local: Connected, client: httpx2.AsyncClient) -> None:
    """Both specifications, "Streamable HTTP": statuses and error codes; the body is a JSON-RPC error."""
    for body, headers, status, code in BROKEN:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await client.post(local.url, content=content, headers={"accept": ""} | headers)

        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), (headers, answer.text)
        assert answer.headers["content-type"] == "application/json"
        read = isinstance(body, dict) and "method" in body and status not in (406, 415)
        assert answer.json()["id"] == (body.get("id") if read else None)


async def test_name_that_headers_cannot_carry_is_mirrored_in_base64(
    local: Connected, client: httpx2.AsyncClient
) -> None:
    """2026-07-28, "Streamable HTTP", header encoding."""
    message = modern("resources/read", {"uri": "note://day/ü"})
    headers = mirrors(message) | {"mcp-name": "=?base64?bm90ZTovL2RheS/DvA==?="}
    answer = await client.post(local.url, json=message, headers=headers)
    assert "rain on" in answer.text


async def test_get_and_delete_are_of_the_handshake_era(local: Connected, client: httpx2.AsyncClient) -> None:
    """2026-07-28: POST is all there is; before, both need a session that exists."""
    stateless = BOTH | {"mcp-protocol-version": "2026-07-28"}
    for method in ("GET", "DELETE", "PUT"):
        answer = await client.request(method, local.url, headers=stateless)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    for method in ("GET", "DELETE"):
        assert (await client.request(method, local.url, headers=BOTH)).status_code == 400
        unknown = await client.request(method, local.url, headers=BOTH | {"mcp-session-id": "unknown"})
        assert unknown.status_code == 404
    assert (await client.get(local.url.removesuffix("/mcp"), headers=BOTH)).status_code == 404


async def test_answer_is_json_unless_something_comes_before_it(local: Connected, client: httpx2.AsyncClient) -> None:
    """Both specifications: the server chooses; a stream only where there is something to stream."""
    answer = await client.post(local.url, json=CALL, headers=mirrors(CALL))
    assert answer.headers["content-type"] == "application/json"
    count = modern("tools/call", {"name": "count", "arguments": {"to": 2}, "_meta": {"progressToken": "p"}}, "c")
    streamed = await client.post(local.url, json=count, headers=mirrors(count))
    assert streamed.headers["content-type"] == "text/event-stream"
    *progress, last = events(streamed.text)
    assert [one["params"]["progressToken"] for one in progress] == ["p", "p"]
    assert last["id"] == "c"
    session = await open_session(client, local.url)
    plain = await client.post(local.url, json=legacy("tools/list"), headers=session)
    assert "tools" in answered(plain)["result"]
    assert plain.headers["mcp-session-id"] == session["mcp-session-id"]


async def test_sessions_of_several_clients_are_kept_apart(
    local: Connected, client: httpx2.AsyncClient, bridge: Bridge
) -> None:
    """Issue 4: several handshake clients at once; their ids are those of the sidecar's sessions."""
    sessions = [await open_session(client, local.url) for _ in range(5)]
    assert {one["mcp-session-id"] for one in sessions} == {one.id for one in bridge.executor._sessions.all()}
    add = legacy("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
    answers = await asyncio.gather(*(client.post(local.url, json=add, headers=one) for one in sessions * 4))
    assert all('"3"' in answer.text for answer in answers)
    assert (await client.delete(local.url, headers=sessions[0])).status_code == 200
    assert (await client.post(local.url, json=add, headers=sessions[0])).status_code == 404
    assert (await client.post(local.url, json=add, headers=sessions[1])).status_code == 200
    assert len(bridge.executor._sessions) == 4


async def running(name: str, *, wanted: bool = True) -> None:
    async with asyncio.timeout(5):
        while (name in full_server.running) is not wanted:
            await asyncio.sleep(0.005)


async def test_leaving_client_cancels_a_stateless_request(local: Connected, client: httpx2.AsyncClient) -> None:
    """2026-07-28, "Cancellation": closing the response stream cancels."""
    message = modern("tools/call", {"name": "wait", "arguments": {"name": "http-modern"}})
    asking = asyncio.create_task(client.post(local.url, json=message, headers=mirrors(message)))
    await running("http-modern")
    asking.cancel()
    await running("http-modern", wanted=False)


async def test_leaving_client_cancels_nothing_in_a_session_but_saying_so_does(
    local: Connected, client: httpx2.AsyncClient
) -> None:
    """2025-11-25, "Streamable HTTP": disconnection SHOULD NOT be interpreted as cancelling; the notification is."""
    session = await open_session(client, local.url)
    message = legacy("tools/call", {"name": "wait", "arguments": {"name": "http-session"}}, 77)
    asking = asyncio.create_task(client.post(local.url, json=message, headers=session))
    await running("http-session")
    asking.cancel()
    add = legacy("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
    for _ in range(3):
        assert (await client.post(local.url, json=add, headers=session)).status_code == 200
    assert "http-session" in full_server.running
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}}
    assert (await client.post(local.url, json=cancel, headers=session)).status_code == 202
    await running("http-session", wanted=False)


async def test_server_stream_carries_what_belongs_to_no_request(tmp_path: Path, client: httpx2.AsyncClient) -> None:
    """2025-11-25, "Listening for Messages from the Server"; one stream a session."""
    child = stdio("full", str(Path(full_server.__file__)))
    async with serving(child) as bridge, sidecar(bridge, tmp_path) as side, connected(side.address) as local:
        session = await open_session(client, local.url)
        async with client.stream("GET", local.url, headers=session) as stream:
            assert stream.status_code == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert (await client.get(local.url, headers=session)).status_code == 409
            ask = legacy("tools/call", {"name": "ask", "arguments": {"question": "what?"}}, 5)
            asking = asyncio.create_task(client.post(local.url, json=ask, headers=session))
            async with asyncio.timeout(10):
                async for line in stream.aiter_lines():
                    if (message := event(line)) is not None:
                        break
        assert message["method"] == "sampling/createMessage"
        result = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "42"}}
        reply = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        assert (await client.post(local.url, json=reply, headers=session)).status_code == 202
        assert answered(await asking)["result"]["content"][0]["text"] == "42"


async def test_subscription_streams_until_its_client_leaves(
    local: Connected, client: httpx2.AsyncClient, bridge: Bridge
) -> None:
    """2026-07-28, "Subscriptions": a listen request is answered by a stream of what it asked for."""
    message = modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, "sub")
    async with client.stream("POST", local.url, json=message, headers=mirrors(message)) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        lines = stream.aiter_lines()
        seen = []
        async with asyncio.timeout(10):
            while len(seen) < 2:
                if (found := event(await anext(lines))) is not None:
                    seen.append(found)
                    change = modern("tools/call", {"name": "change", "arguments": {}})
                    if len(seen) == 1:
                        await client.post(local.url, json=change, headers=mirrors(change))
    assert [one["method"] for one in seen] == [
        "notifications/subscriptions/acknowledged",
        "notifications/tools/list_changed",
    ]
    async with asyncio.timeout(3):
        while bridge.executor.in_flight:
            await asyncio.sleep(0.005)


async def test_client_without_a_server_stream_is_asked_on_its_request(
    local: Connected, client: httpx2.AsyncClient
) -> None:
    """2025-11-25, "Sending Messages to the Server": requests of the server may come before the response."""
    session = await open_session(client, local.url)
    ask = legacy("tools/call", {"name": "ask", "arguments": {"question": "what?"}}, 5)
    async with client.stream("POST", local.url, json=ask, headers=session) as stream:
        messages = []
        async for line in stream.aiter_lines():
            if (message := event(line)) is None:
                continue
            messages.append(message)
            if messages[-1].get("method") == "sampling/createMessage":
                result = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "42"}}
                reply = {"jsonrpc": "2.0", "id": messages[-1]["id"], "result": result}
                assert (await client.post(local.url, json=reply, headers=session)).status_code == 202
    assert messages[-1]["result"]["content"][0]["text"] == "42"


async def test_lost_stream_is_resumed_from_the_last_event(local: Connected, client: httpx2.AsyncClient) -> None:
    """2025-11-25, "Resumability and Redelivery": what came after Last-Event-ID is sent again, and only that."""
    session = await open_session(client, local.url)
    wait = legacy("tools/call", {"name": "wait", "arguments": {"name": "resumed"}}, 9)
    async with client.stream("POST", local.url, json=wait, headers=session) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("id:"):
                break
    seen = line.removeprefix("id:").strip()
    await running("resumed")
    resume = session | {"last-event-id": seen}
    async with client.stream("GET", local.url, headers=resume) as again:
        assert again.status_code == 200
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}}
        await client.post(local.url, json=cancel, headers=session)
        [answer] = events((await again.aread()).decode())
    assert answer["id"] == 9
    count = legacy("tools/call", {"name": "count", "arguments": {"to": 3}, "_meta": {"progressToken": 1}}, 10)
    whole = await client.post(local.url, json=count, headers=session)
    ids = [line.removeprefix("id:").strip() for line in whole.text.splitlines() if line.startswith("id:")]
    assert len(ids) == len(set(ids)) == 5
    rest = await client.get(local.url, headers=session | {"last-event-id": ids[2]})
    assert events(rest.text) == events(whole.text)[2:]
    other = await open_session(client, local.url)
    async with client.stream("GET", local.url, headers=other | {"last-event-id": ids[0]}) as fresh:
        assert await anext(fresh.aiter_lines()) == ": alive"


async def test_hop_that_refuses_is_a_json_rpc_error(tmp_path: Path, client: httpx2.AsyncClient) -> None:
    """Ours: a dead sidecar is told from a server's error by `data.grpcStatus`; the next request works once it is up."""
    address = f"unix:{tmp_path}/sidecar.sock"
    async with connected(address) as one:
        away = await client.post(one.url, json=CALL, headers=mirrors(CALL))
        assert away.json()["error"]["data"] == {"grpcStatus": "UNAVAILABLE"}
        async with serving(InProcessUpstream("full", full_server.server)) as bridge, sidecar(bridge, tmp_path):
            async with asyncio.timeout(10):
                while "result" not in (await client.post(one.url, json=CALL, headers=mirrors(CALL))).json():
                    await asyncio.sleep(0.05)


async def test_session_lost_with_the_sidecar_is_404(tmp_path: Path, client: httpx2.AsyncClient) -> None:
    """2025-11-25, "Session Management": 404 makes the client initialize again."""
    full = full_server.server
    async with connected(f"unix:{tmp_path}/sidecar.sock") as one:
        async with serving(InProcessUpstream("full", full)) as bridge, sidecar(bridge, tmp_path):
            session = await open_session(client, one.url)
        async with serving(InProcessUpstream("full", full)) as bridge, sidecar(bridge, tmp_path):
            async with asyncio.timeout(10):
                while (await client.post(one.url, json=legacy("tools/list"), headers=session)).status_code != 404:
                    await asyncio.sleep(0.05)
            again = await open_session(client, one.url)
            assert (await client.post(one.url, json=legacy("tools/list"), headers=again)).status_code == 200


async def test_stopping_ends_open_streams(side: Sidecar, client: httpx2.AsyncClient) -> None:
    """Ours: SIGTERM with a server stream open ends in a second or two, cleanly."""
    async with connected(side.address) as one:
        session = await open_session(client, one.url)
        async with client.stream("GET", one.url, headers=session) as stream:
            one.process.terminate()
            async with asyncio.timeout(4):
                assert await one.process.wait() == 0
                async for _ in stream.aiter_bytes():
                    pass


@pytest.mark.parametrize("ends", [True, False], ids=["both-end", "session-cannot-be-ended"])
async def test_stopping_leaves_no_session_and_no_request_behind(
    side: Sidecar, bridge: Bridge, client: httpx2.AsyncClient, ends: bool
) -> None:
    """Ours: SIGTERM with a session's request under way, whose client is gone, ends both.

    The request also where the session cannot be ended, whose end would cancel it, too.
    """
    if not ends:
        side.refuses.add("EndSession")
    async with connected(side.address) as one:
        session = await open_session(client, one.url)
        message = legacy("tools/call", {"name": "wait", "arguments": {"name": f"stopped-{ends}"}}, 77)
        asking = asyncio.create_task(client.post(one.url, json=message, headers=session))
        await running(f"stopped-{ends}")
        asking.cancel()
        one.process.terminate()
        async with asyncio.timeout(4):
            assert await one.process.wait() == 0
    await running(f"stopped-{ends}", wanted=False)
    assert seen_rpcs(side).count("EndSession") == 1
    assert len(bridge.executor._sessions) == (0 if ends else 1)
