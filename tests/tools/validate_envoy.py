"""Renders Envoy's configuration for every authentication type, with and without federation and plain HTTP, from
certificates of its own, and has the real Envoy validate each; for CI.
"""

import sys
import tempfile
from pathlib import Path
from typing import get_args

from secure_mcp_grpc import certs, envoy_config
from secure_mcp_grpc.settings import AuthType

PARTNER = "partner.example"


def environments(root: Path) -> dict[str, dict[str, str]]:
    """What is set in each case, by a name for it."""
    common = {
        "MCP_RUN_DIR": str(root),
        "MCP_CERT_PATH": str(root / "sidecar" / "tls.crt"),
        "MCP_KEY_PATH": str(root / "sidecar" / "tls.key"),
        "MCP_CA_PATH": str(root / "sidecar" / "ca.crt"),
        "MCP_ALLOW_NO_AUTH": "true",
    }
    metadata = {
        "MCP_SERVER_RESOURCE": "https://tools.example/mcp",
        "MCP_SERVER_RESOURCE_NAME": 'the "tools"',
        "MCP_SERVER_AUTHORIZATION_SERVERS": "https://id.example/realms/a,https://id.example/b",
        "MCP_SERVER_SCOPES_SUPPORTED": "mcp,mcp:admin",
    }
    federation = {
        "MCP_TRUST_DOMAINS": f"mcp.internal,{PARTNER}",
        "MCP_FEDERATED_CA": f"{PARTNER}={root / 'partner' / 'ca.crt'}",
        "MCP_EGRESS_PEERS": f"15001=model-b@model-b.pods:8443,15002=spiffe://{PARTNER}/x@10.0.0.1:8443",
    }
    cases = {}
    for name in get_args(AuthType):
        own = {**common, "MCP_AUTH_TYPE": name}
        cases |= {name: own, f"{name}, metadata": {**own, **metadata}, f"{name}, federated": {**own, **federation}}
        cases[f"{name}, plain HTTP"] = {**own, **metadata, "MCP_STREAMABLE_HTTP": "true"}
        cases[f"{name}, anywhere"] = {**own, "MCP_SERVER_HOST": "::", "MCP_SERVER_PORT": "0"}
    return cases


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="smg-") as directory:
        root = Path(directory)
        certs.init_ca(root / "ca", "mcp.internal")
        certs.init_ca(root / "partner", PARTNER)
        certs.issue(root / "ca", root / "sidecar", "sidecar", "mcp.internal")
        for name, environ in environments(root).items():
            settings = envoy_config.EnvoySettings.load(environ)
            envoy_config.write_secrets(settings)
            envoy_config.validate(envoy_config.render(settings))
            sys.stdout.write(f"valid: {name}\n")


main()
