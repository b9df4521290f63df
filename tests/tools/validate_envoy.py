"""Renders Envoy's configuration with certificates of its own and has the real Envoy validate it; for CI."""

import sys
import tempfile
from pathlib import Path

from secure_mcp_grpc import certs, envoy_config


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="smg-") as directory:
        root = Path(directory)
        certs.init_ca(root / "ca", "mcp.internal")
        certs.issue(root / "ca", root / "sidecar", "sidecar", "mcp.internal")
        settings = envoy_config.EnvoySettings.load(
            {
                "MCP_RUN_DIR": str(root),
                "MCP_CERT_PATH": str(root / "sidecar" / "tls.crt"),
                "MCP_KEY_PATH": str(root / "sidecar" / "tls.key"),
                "MCP_CA_PATH": str(root / "sidecar" / "ca.crt"),
            }
        )
        envoy_config.validate(envoy_config.render(settings))
    sys.stdout.write("valid\n")


main()
