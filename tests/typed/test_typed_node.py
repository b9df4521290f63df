"""A client that is not ours, in another language: Node.js through the whole chain."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
import pytest
from chain_stack import make_home, run_cli, running
from google.rpc import error_details_pb2, status_pb2

from tests.tools import node_packages

HERE = Path(__file__).parent
SERVER = HERE.parent / "conformance" / "everything_server.py"
POLICY = """\
p, model-a, server/discover, *, allow
p, model-a, tools/list, *, allow
p, model-a, resources/list, *, allow
p, model-a, resources/templates/list, *, allow
p, model-a, prompts/list, *, allow
p, model-a, tools/call, test_*, allow
p, model-a, resources/read, test://*, allow
p, model-a, prompts/get, test_*, allow
p, model-a, completion/complete, test_*, allow
"""


@pytest.fixture(scope="module")
def answers() -> Any:
    """What the client was told, by RPC."""
    root = Path(tempfile.mkdtemp(prefix="smg-"))
    home = make_home(root)
    home.policy.write_text(POLICY)
    changes = {"bridge": {"upstreams": {"everything": {"command": [sys.executable, str(SERVER), "stdio"]}}}}
    protos = root / "protos"
    assert run_cli("proto", str(protos)).returncode == 0
    with running(root, changes, home, without=("store", "sink", "dashboard")) as stack:
        command = (str(node_packages.NODE), str(HERE / "typed_client.cjs"), stack.address)
        done = subprocess.run(
            (*command, str(home.certs / "model-a"), str(protos)),
            env={**os.environ, "NODE_PATH": str(node_packages.modules())},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    shutil.rmtree(root)


def status_of(answer: dict[str, Any]) -> tuple[grpc.StatusCode, status_pb2.Status]:
    (code,) = [one for one in grpc.StatusCode if one.value[0] == answer["code"]]
    details = answer["details"]
    return code, status_pb2.Status.FromString(base64.b64decode(details[0])) if details else status_pb2.Status()


def test_lists_arrive(answers: Any) -> None:
    """Issue 4: `model_context_protocol.Mcp`, for a stub in any language."""
    assert "test_image_content" in {one["name"] for one in answers["tools"]["tools"]}
    assert "not_permitted" not in {one["name"] for one in answers["tools"]["tools"]}
    assert "test://static-text" in {one["uri"] for one in answers["resources"]["resources"]}
    assert [one["uriTemplate"] for one in answers["templates"]["resourceTemplates"]] == ["test://template/{id}/data"]
    assert "test_simple_prompt" in {one["name"] for one in answers["prompts"]["prompts"]}


def test_calls_arrive(answers: Any) -> None:
    """Issue 4: all eight RPCs."""
    assert bytes(answers["image"]["content"][0]["image"]["data"]["data"]).startswith(b"\x89PNG")
    assert answers["read"]["resource"][0]["mimeType"] == "text/plain"
    assert answers["prompt"]["messages"][0]["role"] == "ROLE_USER"
    assert answers["completed"]["values"] == ["paris", "park", "party"]
    assert answers["completed"]["totalMatches"] == 3


def test_a_call_that_needs_input_gets_it(answers: Any) -> None:
    """MCP 2026-07-28, "Multi Round-Trip Requests": the result asks, the retry answers."""
    common = answers["wanted"]["common"]
    assert common["resultType"] == "RESULT_TYPE_INPUT_REQUIRED"
    asked = common["inputRequests"]["user_name"]["elicitRequest"]
    assert asked["message"] == "What is your name?"
    assert "stringSchema" in asked["requestedSchema"]["name"]
    assert answers["given"]["content"][0]["text"]["text"] == "Hello, Ada!"


def test_errors_say_what_they_are(answers: Any) -> None:
    """Issue 4: errors as google.rpc.Status details; a refusal of authz is no error of MCP."""
    code, status = status_of(answers["missing"])
    info = error_details_pb2.ErrorInfo()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert status.details[0].Unpack(info)
    assert (info.reason, info.metadata["code"]) == ("MCP_ERROR", "-32602")
    assert json.loads(info.metadata["data"]) == {"uri": "test://no-such-thing"}
    assert status_of(answers["refused"])[0] is grpc.StatusCode.PERMISSION_DENIED
