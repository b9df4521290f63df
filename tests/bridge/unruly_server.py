"""An MCP server of the 2026-07-28 era that misbehaves on request; standard library only, so that it starts at once.

Each tool is one kind of misbehaviour; `echo` behaves.
"""

import json
import os
import sys
import time


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def answer(id_: object, text: str) -> None:
    say(
        {"jsonrpc": "2.0", "id": id_, "result": {"content": [{"type": "text", "text": text}], "resultType": "complete"}}
    )


def serve(message: dict) -> None:  # noqa: C901 - a table of misdeeds
    id_, params = message.get("id"), message.get("params", {})
    if message["method"] == "tools/list":
        say({"jsonrpc": "2.0", "id": id_, "result": {"tools": [{"name": name} for name in sys.argv[1:]]}})
        return
    if message["method"] == "notifications/cancelled":
        cancelled.append(params["requestId"])
        return
    if message["method"] != "tools/call":
        say({"jsonrpc": "2.0", "id": id_, "error": {"code": -32601, "message": "Method not found"}})
        return
    match params["name"]:
        case "crash":
            os._exit(3)
        case "hang":
            pass
        case "garbage":
            sys.stdout.write(f'this is not JSON\n{{"jsonrpc":"2.0","id":{id_},"result":\n')
            sys.stdout.flush()
        case "huge":
            answer(id_, "x" * 3_000_000)
        case "huge_last":  # id at the end, as JavaScript servers write it
            text = "x" * 3_000_000
            sys.stdout.write(
                f'{{"result":{{"content":[{{"type":"text","text":"{text}"}}]}},"jsonrpc":"2.0","id":{id_}}}\n'
            )
            sys.stdout.flush()
        case "unasked":
            answer(987654, "nobody asked")
            answer(id_, "asked")
        case "flood":
            sys.stderr.write(("noise " * 2000 + "\n") * 200)
            sys.stderr.flush()
            answer(id_, "after the flood")
        case "calls":
            answer(id_, json.dumps(seen))
        case "cancelled":
            answer(id_, json.dumps(cancelled))
        case "pid":
            answer(id_, str(os.getpid()))
        case "raw":
            answer(id_, line.decode())
        case "ignore_eof":
            sys.stdin.buffer.close()
            while True:
                time.sleep(60)
        case _:
            answer(id_, json.dumps(params.get("arguments")))


seen: list = []
cancelled: list = []
for line in sys.stdin.buffer:
    received = json.loads(line)
    seen.append([received.get("method"), received.get("params", {}).get("name")])
    serve(received)
