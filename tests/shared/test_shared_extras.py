"""A sidecar needs neither chDB nor Streamlit nor the MCP SDK; `[sidecar]` is all it needs."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDS = {
    "secure_mcp_grpc": (),
    "authz_service": ("sidecar",),
    "mcp_bridge": ("sidecar", "client", "inprocess", "connect", "reflection"),
    "trace_sink": ("sink", "store"),
    "dashboard": ("dashboard",),
}
OPTIONAL_IN_SHARED = {
    # Imported only by the command that needs it, which asks for the extra first.
    "secure_mcp_grpc": ("sidecar", "client", "dashboard"),
}
BROUGHT_ALONG = {
    "anyio": "mcp",
    "betterproto2": "envoy_data_plane",
    "mcp_types": "mcp",
    "pydantic_core": "pydantic",
    "simpleeval": "casbin",
    "google": "protobuf",
    "tornado": "streamlit",
}
"""Packages that a named dependency is made of."""


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def third_party(package: str) -> set[str]:
    names = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    return {name for name in names if name not in sys.stdlib_module_names and name not in NEEDS}


@pytest.mark.parametrize("package", NEEDS)
def test_every_import_is_a_declared_dependency(package: str) -> None:
    """Ours: what a part imports, its extra names; nothing may lean on what another extra happens to bring."""
    extras = (*NEEDS[package], *OPTIONAL_IN_SHARED.get(package, ()))
    declared = {distribution(item) for item in [*PROJECT["dependencies"], *(r for e in extras for r in EXTRAS[e])]}
    known = packages_distributions()
    for name in third_party(package):
        name = BROUGHT_ALONG.get(name, name)
        owners = {owner.lower().replace("_", "-").replace(".", "-") for owner in known.get(name, [name])}
        assert owners & declared, f"{package} imports {name} ({owners}), which no extra of it names"


def test_a_sidecar_loads_nothing_of_the_other_extras() -> None:
    """Issue: a sidecar needs neither chDB nor Streamlit."""
    code = """
import importlib, sys
for name in ("authz_service.__main__", "mcp_bridge.run", "secure_mcp_grpc.envoy_config", "secure_mcp_grpc.cli.app"):
    importlib.import_module(name)
print(sorted({"chdb", "streamlit", "mcp", "clickhouse_connect", "pandas", "plotly"} & set(sys.modules)))
"""
    result = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
