"""The walls of the architecture, checked on the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("authz_service", "mcp_bridge", "trace_sink", "dashboard")
SHARED = {
    f"secure_mcp_grpc.{name}"
    for name in (
        *(
            "als",
            "authenticators",
            "calls",
            "errors",
            "headers",
            "health",
            "http_calls",
            "http1",
            "http2",
            "lifecycle",
            "limit_settings",
            "logs",
            "metrics",
            "records",
            "settings",
            "signing",
            "spiffe",
        ),
        *("typed_calls", "v1"),
    )
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(package: str) -> list[Path]:
    paths = [path for path in (ROOT / package).rglob("*.py") if "_pb2" not in path.name]
    assert paths, f"{package} has no source"
    return paths


@pytest.mark.parametrize("service", SERVICES)
def test_services_never_import_each_other(service: str) -> None:
    """Design: what they share is small and lives in secure_mcp_grpc."""
    others = {name for name in SERVICES if name != service}
    for path in sources(service):
        for name in imports(path):
            assert name.split(".")[0] not in others, f"{path} imports {name}"


@pytest.mark.parametrize("service", SERVICES)
def test_services_import_only_what_is_shared(service: str) -> None:
    """Design: neither the command line nor the supervisor is a service's business."""
    for path in sources(service):
        for name in imports(path):
            if name.startswith("secure_mcp_grpc."):
                allowed = any(name == shared or name.startswith(f"{shared}.") for shared in SHARED)
                assert allowed, f"{path} imports {name}"


def test_modules_stay_small() -> None:
    """House style: files under about 400 lines."""
    long = [
        (str(path.relative_to(ROOT)), count)
        for package in (*SERVICES, "secure_mcp_grpc")
        for path in sources(package)
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    ]
    assert long == []
