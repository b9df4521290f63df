"""An MCP server of both eras that misbehaves on request; standard library only, so that it starts at once.

Each tool is one kind of misbehaviour; `echo` behaves. Messages are written as raw text where that matters.
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


def write(text: str | bytes) -> None:
    sys.stdout.buffer.write(text if isinstance(text, bytes) else text.encode())
    sys.stdout.buffer.flush()


def progress(token: object) -> None:
    say({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})


def notify(method: str, subscription: object, **params: object) -> None:
    meta = {"io.modelcontextprotocol/subscriptionId": subscription}
    say({"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params | {"_meta": meta}})


def serve(message: dict) -> None:  # noqa: C901 - a table of misdeeds
    id_, params = message.get("id"), message.get("params", {})
    if message["method"] == "initialize":
        said = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "unruly", "version": "1"}}
        say({"jsonrpc": "2.0", "id": id_, "result": said})
        return
    if message["method"] == "notifications/initialized":
        return
    if message["method"] == "subscriptions/listen":
        listening.append(id_)
        agreed = {"toolsListChanged": params["notifications"].get("toolsListChanged", False)}
        notify("subscriptions/acknowledged", id_, notifications=agreed)
        return
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
        case "not_utf8":
            write(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"\xff\xfe"}]}}\n' % id_)
        case "two_results":
            write(f'{{"jsonrpc":"2.0","id":{id_},"result":{{"isError":true}},"result":{{}}}}\n')
        case "two_members":
            write(f'{{"jsonrpc":"2.0","id":{id_},"result":{{"content":[],"isError":true,"IsError":false}}}}\n')
        case "two_metas":
            write(f'{{"jsonrpc":"2.0","id":{id_},"result":{{"content":[],"_meta":{{"a":1,"a":2}}}}}}\n')
        case "deep":
            write(f'{{"jsonrpc":"2.0","id":{id_},"result":{"[" * 200_000}{"]" * 200_000}}}\n')
        case "only_unasked":
            answer(987654, "nobody asked")
        case "notes":
            for _ in range(1500):
                progress(id_)
            answer(id_, "after the notes")
        case "endless_notes":
            token, padding, number = params["_meta"]["progressToken"], "x" * 10_000, 0
            while True:
                said = {"progressToken": token, "progress": number, "message": padding}
                say({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})
                number += 1
        case "guessed_tokens":
            for token in (*range(1, 40), "one", None, [], {}):
                progress(token)
            answer(id_, "guessed")
        case "half_line":
            write(f'{{"jsonrpc":"2.0","id":{id_},"result":{{"content":[')
        case "closes_stdout":
            os.close(1)
            time.sleep(60)
        case "early":
            answer(id_ + 1, "before it was asked")
            answer(id_, "early")
        case "twice":
            answer(id_, "first")
            answer(id_, "second")
        case "odd_messages":
            for odd in ("", "null", "7", "[]", '{"jsonrpc":"2.0","method":"x","id":{}}'):
                write(odd + "\n")
            answer(id_, "odd")
        case "deaf":
            time.sleep(60)
        case "changed":
            for one in listening:
                notify("tools/list_changed", one)
            answer(id_, "done")
        case "hold":
            held.append(id_)
        case "release":
            for one in held:
                answer(one, "released")
            held.clear()
            answer(id_, "done")
        case "burn":
            while True:
                pass
        case "allocate":
            answer(id_, str(len(bytearray(params["arguments"]["mib"] * 1024 * 1024))))
        case "limits":
            import resource

            names = ("RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_CORE")
            answer(id_, json.dumps({name: resource.getrlimit(getattr(resource, name)) for name in names}))
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


held: list = []
listening: list = []
seen: list = []
cancelled: list = []
for line in sys.stdin.buffer:
    received = json.loads(line)
    seen.append([received.get("method"), received.get("params", {}).get("name")])
    serve(received)
