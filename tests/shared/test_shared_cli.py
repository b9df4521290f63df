"""Small pure pieces of the command line."""

import pytest

from secure_mcp_grpc.cli.run import _program, _server_name
from secure_mcp_grpc.errors import UserError


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "-m", "mcp_server_time", "--local-timezone", "UTC"], "mcp-server-time"),
        (["/usr/bin/mcp-server-git", "--repository", "."], "mcp-server-git"),
        (["python", "/srv/My Server.py"], "my-server"),
        (["node", "dist/index.js"], "index"),
        (["7z"], "z"),
        (["-m"], "m"),
        (["日本"], "server"),
        (["x" * 100], "x" * 32),
    ],
)
def test_a_command_names_its_server(command: list[str], name: str) -> None:
    """Ours: records and charts say which server it was."""
    assert _server_name(_program(command)) == name


def test_an_environment_variable_that_is_not_there_is_named() -> None:
    """Ours: a clear error that names the thing."""
    from secure_mcp_grpc.cli.run import _variable

    with pytest.raises(UserError, match="NOT_THERE_AT_ALL"):
        _variable("NOT_THERE_AT_ALL")
    assert _variable("A=b=c") == ("A", "b=c")


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1:1"), ("0.0.0.0", "127.0.0.1:1"), ("::", "[::1]:1"), ("10.0.0.7", "10.0.0.7:1")],
)
def test_a_wildcard_listener_is_announced_as_loopback(host: str, address: str) -> None:
    """Ours: what is announced can be connected to, and the certificate of `certs issue sidecar` names it."""
    from secure_mcp_grpc.stack.compose import _from_here

    assert _from_here(host, 1) == address
