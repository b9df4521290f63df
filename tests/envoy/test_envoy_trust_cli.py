"""`secure-mcp-grpc envoy trust`: for pods in which Envoy runs without our supervisor."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from envoy_harness import plain_ca

from secure_mcp_grpc import certs

COMMAND = (sys.executable, "-m", "secure_mcp_grpc", "envoy", "trust")


def environment(root: Path, bundle: Path) -> dict[str, str]:
    return {
        **os.environ,
        "MCP_RUN_DIR": str(root),
        "MCP_TRUST_DOMAINS": "mcp.internal,partner.example",
        "MCP_FEDERATED_CA": f"partner.example={bundle}",
        "MCP_CA_PATH": str(root / "ca.crt"),
    }


def vouching(root: Path) -> str:
    document = yaml.safe_load((root / "envoy-clients.yaml").read_text())
    config = document["resources"][0]["validation_context"]["custom_validator_config"]["typed_config"]
    return str(config["trust_domains"][1]["trust_bundle"]["inline_string"])


def test_a_bundle_is_put_in_force_once_or_for_as_long_as_asked(root: Path) -> None:
    """Ours: a second container can keep Envoy's bundles fresh; it ends at SIGTERM with exit code 0."""
    first, second = (certs.pem(plain_ca()[0]).decode() for _ in range(2))
    bundle = root / "partner.pem"
    bundle.write_text(first)
    environ = environment(root, bundle)
    for words in ("The CAs are in force.", "Nothing has changed."):
        done = subprocess.run(COMMAND, env=environ, capture_output=True, text=True, timeout=30, check=True)
        assert words in done.stderr
    assert vouching(root) == first

    process = subprocess.Popen((*COMMAND, "--watch"), env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "Nothing" in process.stderr.readline()
    bundle.write_text(f"A comment that stays outside.\n{second}")
    deadline = time.monotonic() + 20
    while vouching(root) != second and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)

    assert vouching(root) == second
    assert process.returncode == 0
    assert "federated_trust_renewed" in said


def test_without_federation_there_is_nothing_to_do(root: Path) -> None:
    """Ours: one line that says what to set."""
    environ = {name: value for name, value in environment(root, root).items() if name != "MCP_FEDERATED_CA"}
    done = subprocess.run(COMMAND, env=environ, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode != 0
    assert "MCP_FEDERATED_CA" in done.stderr
