"""A handshake server of the standard library, as plain and as strange as old servers are.

`old_server.py [option…]`: `version=V` answers initialize with V; `dies` ends on anything before initialize;
`roots` asks for the client's roots once it is initialized and says in `raw` what they were;
`modern` is a server of 2026-07-28 instead, with results that older versions forbid.
"""

import json
import os
import sys

options = dict(part.partition("=")[::2] for part in sys.argv[1:])
opened = False
roots: object = None


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def result(id_: object, text: str) -> None:
    say(f'{{"jsonrpc":"2.0","id":{json.dumps(id_)},"result":{text}}}')


def error(id_: object, code: int, message: str) -> None:
    say(json.dumps({"jsonrpc": "2.0", "id": id_, "error": {"code": code, "message": message}}))


def handshake(message: dict, line: str) -> None:  # noqa: C901 - a table of ways
    global opened, roots
    id_, method, params = message.get("id"), message.get("method"), message.get("params", {})
    if method == "initialize":
        opened = True
        version = options.get("version", params["protocolVersion"])
        capabilities = {"tools": {}, "resources": {}, "tasks": {"list": {}}, "x": {"y": 1}}
        result(
            id_,
            json.dumps(
                {
                    "protocolVersion": version,
                    "capabilities": capabilities,
                    "serverInfo": {"name": "old", "version": "1"},
                }
            ),
        )
    elif method == "notifications/initialized" and "roots" in options:
        say('{"jsonrpc":"2.0","id":"r-1","method":"roots/list"}')
    elif method is None:
        roots = message.get("result", message.get("error"))
    elif method == "tools/call" and params["name"] == "roots":
        result(id_, json.dumps({"content": [{"type": "text", "text": json.dumps(roots)}]}))
    elif not opened:
        if "dies" in options:
            os._exit(4)
        error(id_, -32602, "initialize first")
    elif method == "tools/call" and params["name"] == "raw":
        result(id_, json.dumps({"content": [{"type": "text", "text": line}]}))
    elif method == "tools/call":
        # Unusual on purpose: what must come through as it is.
        result(
            id_,
            '{"zeta": 1.50, "content": [], "structuredContent": {"n": 123456789012345678901234567890, "e": "\\u00e4"},'
            ' "_meta": {"own": 1e400}, "unknown": [true, null]}',
        )
    elif method == "tools/list":
        result(id_, '{"tools": [], "nextCursor": "again"}' if "cursor" not in params else '{"tools": []}')
    elif id_ is not None:
        error(id_, -32601, "Method not found")


def modern(message: dict, line: str) -> None:
    id_, method, params = message.get("id"), message.get("method"), message.get("params", {})
    if method == "server/discover":
        result(
            id_,
            '{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":5,"cacheScope":"public",'
            '"resultType":"complete"}',
        )
    elif method == "tools/list":
        tools = [
            {"name": "a", "inputSchema": {"type": "object"}, "outputSchema": {"type": "array"}},
            {"name": "b", "inputSchema": {"type": "object"}, "outputSchema": {"type": "object"}},
        ]
        result(id_, json.dumps({"tools": tools, "resultType": "complete", "ttlMs": 5, "cacheScope": "public"}))
    elif method == "tools/call" and params["name"] == "raw":
        result(id_, json.dumps({"content": [{"type": "text", "text": line}], "resultType": "complete"}))
    elif method == "tools/call" and params["name"] == "strange":
        asked = '{"k": {"method": "nothing/known", "params": {}}}'
        result(id_, f'{{"resultType": "input_required", "inputRequests": {asked}}}')
    elif method == "tools/call":
        result(id_, '{"resultType": "complete", "content": [], "structuredContent": [1, 2.50], "unknown": 1e400}')
    elif id_ is not None:
        error(id_, -32601, "Method not found")


serve = modern if "modern" in options else handshake
for raw in sys.stdin:
    serve(json.loads(raw), raw.strip())
