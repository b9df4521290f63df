"""`secure-mcp-grpc proto`: the contracts as other languages get them."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from mcp_grpc_transport_proto import mcp_messages_pb2, mcp_pb2

from secure_mcp_grpc.v1 import mcp_transport_pb2

FILES = (mcp_pb2.DESCRIPTOR, mcp_messages_pb2.DESCRIPTOR, mcp_transport_pb2.DESCRIPTOR)


def write(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "secure_mcp_grpc", "proto", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def read(path: Path) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    return {one.name: one for one in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file}


def of(file: object) -> descriptor_pb2.FileDescriptorProto:
    found = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(found)  # type: ignore[attr-defined]  # a FileDescriptor
    return found


def comparable(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """In one order; and protoc writes out JSON names where Python's descriptors leave them to the rule."""
    waiting = list(file.message_type)
    for message in waiting:
        message.nested_type.sort(key=lambda one: one.name)
        waiting.extend(message.nested_type)
        for field in message.field:
            field.ClearField("json_name")
    return file


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("proto")
    done = write(str(directory), "--descriptor-set", str(directory / "mcp.binpb"))
    assert done.returncode == 0, done.stderr
    return directory


def test_the_sources_compile_to_what_the_bridge_serves(written: Path) -> None:
    """Issue 4: a stub in any language; ours: names, numbers, types, options and services survive."""
    names = [file.name for file in FILES]
    compiled = written / "compiled.binpb"
    command = (
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        str(written),
        f"--descriptor_set_out={compiled}",
        *names,
    )
    subprocess.run(command, check=True, timeout=60)

    found = read(compiled)
    for file in FILES:
        assert comparable(found[file.name]) == comparable(of(file))


def test_the_descriptor_set_holds_all_it_needs(written: Path) -> None:
    """Ours: one file for grpcurl -protoset, protoc --descriptor_set_in and loaders, imports before their users."""
    seen: set[str] = set()
    for name, file in read(written / "mcp.binpb").items():
        assert seen.issuperset(file.dependency)
        seen.add(name)

    assert {file.name for file in FILES} < seen


def test_where_to_write_must_be_said() -> None:
    """Ours: a clear error that names the thing."""
    done = write()

    assert done.returncode == 2
    assert "--descriptor-set FILE" in done.stderr
    assert "Traceback" not in done.stderr
