"""`SecureMCPServer`: an MCP server of this process behind the whole stack, in one object."""

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from secure_mcp_grpc import certs, logs, spiffe
from secure_mcp_grpc.api.authorization import RBACAuthorization
from secure_mcp_grpc.api.providers import AuthProvider, Serving
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import stop_event, write_by_rename
from secure_mcp_grpc.stack.home import Home

__all__ = ["SecureMCPServer"]

logger = logging.getLogger(__name__)

_TRUST_DOMAIN = "mcp.internal"
_LIFETIME = datetime.timedelta(days=30)
_NOBODY = "# Nobody may do anything yet. Lines like: p, model-a, tools/call, *, allow\n"


class SecureMCPServer:
    """Envoy, authz_service and the bridge around `mcp_server`, an `MCPServer` or low-level `Server` of the SDK.

    Envoy and authz_service are processes of their own; the bridge and the
    server live in this one. Everything is kept in `home`
    (`~/.secure-mcp-grpc/api-PORT`); without `authorization` the policy there,
    policy.csv, decides, and a new one allows nothing. With
    `telemetry_enabled` the sink and its store run too. Without certificates
    from `auth_provider` the server has its own CA, in `home`.
    """

    def __init__(
        self,
        mcp_server: Any,
        auth_provider: AuthProvider,
        authorization: RBACAuthorization | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 50051,
        rate_limit_enabled: bool = False,
        rate_limit_requests_per_minute: int = 100,
        telemetry_enabled: bool = False,
        home: Path | str | None = None,
        name: str = "server",
    ) -> None:
        if rate_limit_requests_per_minute < 1:
            raise UserError("rate_limit_requests_per_minute must be at least 1")
        self._mcp_server = mcp_server
        self._provider = auth_provider
        self._authorization = authorization
        self._host = host
        self._port = port
        self._per_minute = rate_limit_requests_per_minute if rate_limit_enabled else None
        self._telemetry = telemetry_enabled
        root = Path(home) if home is not None else Path.home() / ".secure-mcp-grpc" / f"api-{port}"
        self.home = Home.locate(root)
        self._name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:32].strip("-") or "server"

    def start(self) -> None:
        """Serve until SIGINT or SIGTERM. Raises `UserError` with one line that says what is missing or wrong."""
        logs.configure("api")
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        stopping = stop_event()
        async with self.running(stopping) as address:
            logs.event(logger, logging.INFO, "serving", address=address, home=str(self.home.root))
            await stopping.wait()

    @contextlib.asynccontextmanager
    async def running(self, stopping: asyncio.Event | None = None) -> AsyncIterator[str]:
        """Serve while the block runs; gives the address that clients connect to, `host:port`."""
        from secure_mcp_grpc.stack.hosted import Hosted
        from secure_mcp_grpc.stack.probes import endpoint, part_ready
        from secure_mcp_grpc.stack.running import running

        self.home.prepare()
        document = self._document(self._provider.serving())
        bridge = Hosted("bridge", self._bridge, lambda pid: part_ready(self.home.run_dir, "bridge", pid))
        without = ("dashboard",) if self._telemetry else ("store", "sink", "dashboard")
        async with running(
            self.home,
            document,
            stopping=stopping or asyncio.Event(),
            without=without,
            hosted=[bridge],
            log_dir=None,
        ):
            yield endpoint(self.home.run_dir, "envoy", "mcp") or f"{self._host}:{self._port}"

    async def _bridge(self, stopping: asyncio.Event) -> None:
        from mcp_bridge.run import serve
        from mcp_bridge.settings import BridgeSettings
        from mcp_bridge.upstreams.inprocess import InProcessUpstream

        settings = BridgeSettings.load({}, self.home.run_dir / "sidecar.yaml")
        await serve(settings, InProcessUpstream(self._name, self._mcp_server), stopping)

    def _document(self, serving: Serving) -> dict[str, dict[str, Any]]:
        """The sections of sidecar.yaml."""
        tls = serving.tls or self._own_certificate()
        self._write_policy(serving)
        authz: dict[str, Any] = {"metrics_port": 0}
        if serving.issuer is not None:
            authz["issuers"] = [dict(serving.issuer)]
        if self._per_minute is not None:
            by = "identity" if serving.auth_type.startswith("mtls") else "user"
            authz["quotas"] = [{"name": "per-minute", "by": by, "limit": self._per_minute, "window_s": 60}]
        document: dict[str, dict[str, Any]] = {
            "common": {"auth_type": serving.auth_type, "trust_domains": [_trust_domain(Path(tls["cert_path"]))]},
            "server": {"host": self._host, "port": self._port, **tls},
            "authz": authz,
            # The server is an object of this process: the name in the settings only tells records whose it is.
            "bridge": {"metrics_port": 0, "upstreams": {self._name: {"target": "this.process:server"}}},
        }
        if self._telemetry:
            document |= {"sink": {"metrics_port": 0}, "store": {"metrics_port": 0, "port": 0}}
        return document

    def _own_certificate(self) -> dict[str, str]:
        """From a CA in `home`, made first where there is none; the certificate is new at each start."""
        directory = self.home.certs / "sidecar"
        if not (self.home.ca / certs.CA_CRT).exists():
            certs.init_ca(self.home.ca, _TRUST_DOMAIN)
        addresses = dict.fromkeys(("127.0.0.1", "::1", *([self._host] if _is_address(self._host) else [])))
        certs.issue(self.home.ca, directory, "sidecar", dns=["localhost"], ips=list(addresses), lifetime=_LIFETIME)
        files = {"cert_path": certs.TLS_CRT, "key_path": certs.TLS_KEY, "ca_path": certs.CA_CRT}
        return {setting: str(directory / file) for setting, file in files.items()}

    def _write_policy(self, serving: Serving) -> None:
        if self._authorization is not None:
            text = self._authorization.policy(serving.subject)
            write_by_rename(self.home.policy, text.encode(), mode=0o600)
        elif not self.home.policy.exists():
            write_by_rename(self.home.policy, _NOBODY.encode(), mode=0o600)
            logs.event(logger, logging.WARNING, "nothing_allowed", policy=str(self.home.policy))


def _trust_domain(certificate: Path) -> str:
    """Of the server's own SPIFFE ID; raises `UserError` for a certificate without one."""
    uris = certs.facts(certificate).uris
    parsed = spiffe.parse(uris[0]) if len(uris) == 1 else None
    if parsed is None:
        raise UserError(
            f"certificate {certificate} must have exactly one URI SAN, a SPIFFE ID like spiffe://domain/name"
        )
    return parsed[0]


def _is_address(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
