"""Writes docs/settings.md from the settings classes, so that it cannot drift; `--check` only compares."""

import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
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
is not of its form stops the start with one line that names it. In a variable a list is comma-separated; a list of
objects may also be a JSON array, and a mapping is a JSON object unless its row says otherwise.
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
    tables: list[str] = []
    names = cls.env_names()
    sections = _sections_of(cls)
    for name, info in cls.model_fields.items():
        if name in shared:
            continue
        key = f"{sections[name]}.{name}"
        lines.append(f"| `{key}` | `{names[name]}` | {_default(info)} | {_what(cls, name, info)} |\n")
        tables += [_objects(key, info.annotation, model) for model in _models_in(info.annotation)]
    return "".join(lines + tables)


def _objects(key: str, annotation: Any, model: type[BaseModel]) -> str:
    """The table of what stands in each object of a list or mapping of them, or in a single one."""
    inside = key + {dict: ".<name>", list: "[]", tuple: "[]"}.get(_kind(annotation), "")
    lines = [f"\n### Each of `{inside}`\n", "\n| Key | Default | What it is |\n|---|---|---|\n"]
    for name, info in model.model_fields.items():
        default = "required" if info.is_required() else _default(info)
        lines.append(f"| `{name}` | {default} | {_what(model, name, info)} |\n")
    return "".join(lines)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models_in(part)


def _kind(annotation: Any) -> Any:
    """`list`, `tuple` or `dict`, also in a union with something else."""
    origin = typing.get_origin(annotation)
    if origin in (list, tuple, dict):
        return origin
    return next((kind for part in typing.get_args(annotation) if (kind := _kind(part)) is not None), None)


def _sections_of(cls: type[Settings]) -> dict[str, str]:
    """Field → the section of the file it is read from: that of the class that declares it, a mixin perhaps."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for name in vars(base).get("__annotations__", {}):
            found[name] = str(getattr(base, "section", ""))
    return found


def _what(cls: type[BaseModel], name: str, info: Any) -> str:
    if not info.description:
        raise SystemExit(f"{cls.__name__}.{name} has no description")
    return " ".join(info.description.split()).replace("|", "\\|")


def _default(info: Any) -> str:
    default = info.default
    if isinstance(default, SecretStr):
        return "built in" if default.get_secret_value() else ""
    if default is PydanticUndefined or default in (None, "", [], {}, ()):
        return ""
    if isinstance(default, Path) and default.is_absolute():
        return "built in"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, list | tuple):
        return ", ".join(f"`{one}`" if one else "none" for one in default)
    return f"`{default}`"


if __name__ == "__main__":
    sys.exit(main())
