"""What an MCP server that is our child process gets of us, seen from inside of it."""

import json
import os
import socket
from pathlib import Path

import pytest
from bridge_harness import send, serving, stdio, tool

PROGRAM = """
import json, os, resource, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("method") != "tools/call":
        continue
    fds = []
    for fd in range(64):
        try:
            os.fstat(fd)
            fds.append(fd)
        except OSError:
            pass
    told = {
        "fds": fds,
        "env": dict(os.environ),
        "argv": open("/proc/self/cmdline").read(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "data": resource.getrlimit(resource.RLIMIT_DATA),
        "leads": os.getpgid(0) == os.getpid() == os.getsid(0),
        "cwd": os.getcwd(),
    }
    result = {"content": [], "structuredContent": told, "resultType": "complete"}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_a_child_gets_its_pipes_its_limits_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 4: our settings hold secrets; a child has three pipes, a group of its own and the limits that were set."""
    monkeypatch.setenv("MCP_BRIDGE_CAPTURE_KEY_FILE", "/secret/path")
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "hunter2")
    monkeypatch.setenv("LD_PRELOAD_FAKE", "x")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    upstream = stdio("child", "-c", PROGRAM, env={"GIVEN": "1"}, limits="CORE=0,NOFILE=64,DATA=268435456")
    with socket.socket() as ours, Path(os.devnull).open() as file:
        os.set_inheritable(ours.fileno(), True)
        os.set_inheritable(file.fileno(), True)
        async with serving(upstream) as bridge, bridge.channel() as channel:
            told = (await send(channel, "Call", tool("look")))["result"]["structuredContent"]

    assert told["fds"] == [0, 1, 2]
    assert not {"MCP_BRIDGE_CAPTURE_KEY_FILE", "CLICKHOUSE_PASSWORD", "LD_PRELOAD_FAKE", "PYTHONPATH"} & set(
        told["env"]
    )
    assert told["env"]["GIVEN"] == "1"
    assert "hunter2" not in json.dumps(told)
    assert (told["core"], told["files"], told["data"]) == ([0, 0], [64, 64], [268435456, 268435456])
    assert told["leads"] is True
