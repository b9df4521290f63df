"""Which parts a sidecar on this machine has, and how each is started: from settings to the supervisor's stages."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from secure_mcp_grpc import envoy_config
from secure_mcp_grpc.certs import load_identity
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import announce, write_by_rename
from secure_mcp_grpc.settings import CONFIG_ENV
from secure_mcp_grpc.stack.home import Home
from secure_mcp_grpc.stack.hosted import Hosted
from secure_mcp_grpc.stack.part import PartSpec
from secure_mcp_grpc.stack.probes import envoy_ready, part_ready

__all__ = ["GRPC_TUNING", "OPTIONAL", "compose"]

OPTIONAL = ("store", "sink", "dashboard")
"""Parts that a sidecar can do without, or that run elsewhere."""

_NEEDS = {
    "authz": ("casbin", "sidecar"),
    "bridge": ("mcp_grpc_transport_proto", "sidecar"),
    "sink": ("clickhouse_connect", "sink"),
    "store": ("chdb", "store"),
    "dashboard": ("streamlit", "dashboard"),
}
_MODULES = {
    "authz": "authz_service",
    "bridge": "mcp_bridge",
    "sink": "trace_sink",
    "store": "trace_sink.store",
    "dashboard": "dashboard",
}

# gRPC's event engine hands each event from thread to thread; its older poller does not. Measured on two cores, a unary
# call on a Unix socket takes about a fifth less of the server's CPU (docs/benchmarks.md).
GRPC_TUNING = {"GRPC_EXPERIMENTS": os.environ.get("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")}


@contextlib.contextmanager
def compose(
    home: Home,
    document: Mapping[str, Mapping[str, Any]],
    *,
    without: Sequence[str] = (),
    hosted: Sequence[Hosted] = (),
    text_logs: bool = False,
) -> Iterator[Sequence[Sequence[PartSpec | Hosted]]]:
    """The supervisor's stages for the sidecar that `document` (the sections of sidecar.yaml) describes.

    A part in `hosted` takes the place of the process of its name.
    Raises `UserError` before anything starts for a missing extra, a busy port
    or a setting that is not of its form.
    """
    parts = _parts(document, without)
    for part in parts:
        _require_extra(part)
    sections = _effective(home, document, parts)
    _require_files(home, sections)
    config = home.run_dir / "sidecar.yaml"
    write_by_rename(config, yaml.safe_dump(sections).encode(), mode=0o600)
    env = {CONFIG_ENV: str(config), "MCP_RUN_DIR": str(home.run_dir), **GRPC_TUNING}
    if text_logs:
        env["MCP_LOG_FORMAT"] = "text"
    with contextlib.ExitStack() as stack:
        listeners: dict[str, socket.socket] = {}
        for part, default_port in (("store", 8123), ("dashboard", 8501)):
            if part in parts:
                listeners[part] = stack.enter_context(_listen(part, sections.get(part, {}), default_port))
        if "store" in parts:
            _write_store_urls(home, listeners["store"].getsockname()[1])
        python: dict[str, PartSpec | Hosted] = {
            part: _python_part(home, part, env, listeners.get(part)) for part in parts
        }
        python |= {one.name: one for one in hosted}
        envoy = _EnvoyPart(home, {**os.environ, **env}, config)
        stack.enter_context(envoy_config.keeping_trust(envoy.settings))
        order = [["store"], ["sink"], ["authz", "bridge"]]
        stages = [[python[part] for part in stage if part in python] for stage in order]
        last: list[PartSpec | Hosted] = [envoy.spec(), *([python["dashboard"]] if "dashboard" in python else [])]
        yield [*(stage for stage in stages if stage), last]


def _parts(document: Mapping[str, Mapping[str, Any]], without: Sequence[str]) -> list[str]:
    if unknown := [part for part in without if part not in OPTIONAL]:
        raise UserError(f"--without {unknown[0]}: only {', '.join(OPTIONAL)} can be left out")
    parts = [part for part in _MODULES if part not in without]
    sink = document.get("sink", {})
    if _names_store(sink) and "store" in parts:
        parts.remove("store")
    if "sink" in parts and "store" not in parts and not _names_store(sink):
        raise UserError("--without store: name the store that the sink writes to instead, in CLICKHOUSE_URL")
    return parts


def _names_store(sink: Mapping[str, Any]) -> bool:
    return "CLICKHOUSE_URL" in os.environ or "clickhouse_url" in sink or "clickhouse_url_file" in sink


def _require_extra(part: str) -> None:
    module, extra = _NEEDS[part]
    if find_spec(module) is None:
        leave_out = f", or leave it out: --without {part}" if part in OPTIONAL else ""
        raise UserError(f"{part} needs an extra: pip install 'secure-mcp-grpc[{extra}]'{leave_out}")


def _effective(
    home: Home, document: Mapping[str, Mapping[str, Any]], parts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`document` with this machine's paths where it names none."""
    server = home.certs / "sidecar"
    defaults: dict[str, dict[str, Any]] = {
        "authz": {
            "policy_file": str(home.policy),
            "journal_dir": str(home.root / "journal"),
            "revocations_file": str(home.root / "revocations.json"),
        },
        "server": {
            "cert_path": str(server / "tls.crt"),
            "key_path": str(server / "tls.key"),
            "ca_path": str(server / "ca.crt"),
        },
    }
    if "store" in parts:
        defaults["store"] = {
            "data_dir": str(home.root / "store"),
            "writer_password_file": str(home.secrets / "store-writer"),
            "reader_password_file": str(home.secrets / "store-reader"),
        }
        defaults["sink"] = {"clickhouse_url_file": str(home.secrets / "clickhouse-writer.url")}
        defaults["dashboard"] = {"clickhouse_url_file": str(home.secrets / "clickhouse-reader.url")}
    merged = {section: {**defaults.get(section, {}), **document.get(section, {})} for section in {*defaults, *document}}
    merged.setdefault("common", {})["run_dir"] = str(home.run_dir)
    return merged


def _require_files(home: Home, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Say what to do about files that a person has to make, before anything starts."""
    certificate = Path(os.environ.get("MCP_CERT_PATH", sections["server"]["cert_path"]))
    if not certificate.exists():
        where = "" if home == Home.locate(None) else f" --dir {home.root}"
        raise UserError(
            f"certificate {certificate} does not exist; make a CA and a certificate with: "
            f"secure-mcp-grpc certs init{where} && secure-mcp-grpc certs issue sidecar{where}"
        )
    if certificate.name == "tls.crt":
        load_identity(certificate.parent)
    policy = Path(os.environ.get("MCP_AUTHZ_POLICY_FILE", sections["authz"]["policy_file"]))
    if not policy.exists():
        raise UserError(
            f"policy {policy} does not exist; write one (an empty file allows nothing), "
            "with lines like: p, model-a, tools/call, *, allow"
        )


def _listen(part: str, section: Mapping[str, Any], default_port: int) -> socket.socket:
    """The part's HTTP socket, bound here: it outlives the part, so that its address stays its own."""
    host = str(section.get("host", "127.0.0.1"))
    port = int(os.environ.get(f"MCP_{part.upper()}_PORT", section.get("port", default_port)))
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise UserError(
            f"{part} cannot listen on {host}:{port}: {error.strerror}; set MCP_{part.upper()}_PORT to another port"
        ) from None


def _write_store_urls(home: Home, port: int) -> None:
    for user in ("writer", "reader"):
        password = quote(home.secret(f"store-{user}"), safe="")
        url = f"http://{user}:{password}@127.0.0.1:{port}/mcp"
        write_by_rename(home.secrets / f"clickhouse-{user}.url", url.encode(), mode=0o600)


def _python_part(home: Home, part: str, env: Mapping[str, str], listener: socket.socket | None) -> PartSpec:
    inherited = {f"MCP_{part.upper()}_LISTEN_FD": listener} if listener else {}
    return PartSpec(
        name=part,
        prepare=lambda: (sys.executable, "-m", _MODULES[part]),
        probe=lambda pid: part_ready(home.run_dir, part, pid),
        env=env,
        inherited=inherited,
    )


class _EnvoyPart:
    """Envoy: rendered before each start; an ephemeral port is kept over restarts."""

    def __init__(self, home: Home, environ: Mapping[str, str], config: Path) -> None:
        self._home = home
        self._settings = envoy_config.EnvoySettings.load(environ, config)
        self._admin = envoy_config.admin_socket(home.run_dir)

    @property
    def settings(self) -> envoy_config.EnvoySettings:
        return self._settings

    def spec(self) -> PartSpec:
        return PartSpec(
            name="envoy",
            prepare=self._prepare,
            probe=self._ready,
            drain=self._drain,
            stop_timeout_s=1.5,
        )

    def _prepare(self) -> Sequence[str]:
        _require_free(self._settings.host, self._settings.port)
        self._admin.unlink(missing_ok=True)
        path = self._home.run_dir / "envoy.yaml"
        write_by_rename(path, envoy_config.render(self._settings).encode(), mode=0o600)
        return envoy_config.envoy_command(self._settings, path)

    async def _drain(self) -> None:
        await asyncio.to_thread(envoy_config.drain, self._admin)

    async def _ready(self, _: int) -> bool:
        if not await envoy_ready(self._admin):
            return False
        try:
            host, port = await asyncio.to_thread(envoy_config.listener_address, self._admin)
        except envoy_config.AdminError:
            return False  # alive, but not listening yet
        self._settings = self._settings.model_copy(update={"port": port})
        announce(self._home.run_dir, "envoy", {"mcp": _from_here(host, port)})
        return True


def _from_here(host: str, port: int) -> str:
    """Where a client on this machine reaches a listener; "every address" is not one to connect to."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _require_free(host: str, port: int) -> None:
    """Envoy would report a busy port in many words: say it in one line."""
    if port == 0:
        return
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise UserError(
            f"Envoy cannot listen on {host}:{port}: {error.strerror}; set MCP_SERVER_PORT to another port"
        ) from None
