"""Writes docs/settings.md from the settings classes, so that it cannot drift; `--check` only compares."""

import sys
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from authz_service.settings import AuthzSettings
from dashboard.settings import DashboardSettings
from mcp_bridge.settings import BridgeSettings
from secure_mcp_grpc.envoy_settings import EnvoySettings
from secure_mcp_grpc.settings import CommonSettings, Settings
from trace_sink.settings import SinkSettings
from trace_sink.store.settings import StoreSettings

PATH = Path(__file__).parent / "settings.md"
HEAD = """\
# Settings

Made from the code by `python docs/build_reference.py`.

Every part reads one YAML file (`MCP_CONFIG`, or `--config` of `secure-mcp-grpc up`), then environment variables, which
win. A section of the file belongs to a part; an unknown key, an unknown variable with a part's prefix or a value that
is not of its form stops the start with one line that names it. Lists are comma-separated in variables.
"""
PARTS: tuple[tuple[str, type[Settings]], ...] = (
    ("Shared by all parts", CommonSettings),
    ("Envoy", EnvoySettings),
    ("authz_service", AuthzSettings),
    ("mcp_bridge", BridgeSettings),
    ("trace_sink", SinkSettings),
    ("Embedded store", StoreSettings),
    ("dashboard", DashboardSettings),
)


def main() -> int:
    text = HEAD + "".join(_section(title, cls) for title, cls in PARTS)
    if "--check" in sys.argv:
        if PATH.read_text(encoding="utf-8") != text:
            sys.stderr.write("docs/settings.md is out of date; run: python docs/build_reference.py\n")
            return 1
        return 0
    PATH.write_text(text, encoding="utf-8")
    return 0


def _section(title: str, cls: type[Settings]) -> str:
    shared = set() if cls is CommonSettings else set(CommonSettings.model_fields)
    lines = [f"\n## {title}\n", "\n| Key | Variable | Default | What it is |\n|---|---|---|---|\n"]
    names = cls.env_names()
    sections = _sections_of(cls)
    for name, info in cls.model_fields.items():
        if name in shared:
            continue
        if not info.description:
            raise SystemExit(f"{cls.__name__}.{name} has no description")
        what = " ".join(info.description.split())
        default = _default(info)
        lines.append(f"| `{sections[name]}.{name}` | `{names[name]}` | {default} | {what} |\n")
    return "".join(lines)


def _sections_of(cls: type[Settings]) -> dict[str, str]:
    """Field → the section of the file it is read from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for name in vars(base).get("__annotations__", {}):
            found[name] = str(getattr(base, "section", ""))
    return found


def _default(info: Any) -> str:
    if info.default is PydanticUndefined or info.default in (None, "", [], {}):
        return ""
    if hasattr(info.default, "get_secret_value") or (isinstance(info.default, Path) and info.default.is_absolute()):
        return "built in"
    return f"`{info.default}`"


if __name__ == "__main__":
    sys.exit(main())
