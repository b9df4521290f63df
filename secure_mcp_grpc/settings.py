"""Settings of every part: one YAML file plus environment variables.

A part declares a frozen class of settings; `load` reads its section of the
file, lets environment variables override it, and refuses anything unknown or
malformed with one line that names the variable or key, the value and what was
expected. Nothing is read at import.
"""

import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from secure_mcp_grpc.errors import UserError

__all__ = ["CONFIG_ENV", "SECTIONS", "AuthType", "CommonSettings", "Settings", "from_env", "read_config"]

CONFIG_ENV = "MCP_CONFIG"
"""Environment variable that names the YAML file."""

SECTIONS = frozenset({"authz", "bridge", "common", "dashboard", "egress", "limits", "server", "sink", "store"})
"""Top-level keys of the YAML file."""


AuthType = typing.Literal["mtls", "mtls+jwt", "jwt", "oauth2", "none"]
"""What a client must show: a certificate, both, or a token (JWT; or also an opaque one); under `none` nothing."""


def from_env(name: str, **field: Any) -> Any:
    """A field that is read from the environment variable `name` instead of its class's prefix and its own name."""
    return Field(json_schema_extra={"env": name}, **field)


_COMMON_ONLY = frozenset({"auth_type", "allow_no_auth", "streamable_http"})


class Settings(BaseModel):
    """Base of every settings class.

    `section` is the key in the YAML file; a field `port` of a class with
    `env_prefix` `MCP_AUTHZ_` is read from `MCP_AUTHZ_PORT` unless it is
    declared with `from_env`. Lists are comma-separated in the environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)
    section: ClassVar[str]
    env_prefix: ClassVar[str]

    @classmethod
    def env_names(cls) -> dict[str, str]:
        """Field name → environment variable."""
        return {name: _env_name(cls, name, info) for name, info in cls.model_fields.items()}

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, config: Path | None = None) -> Self:
        """Settings from defaults, then the file, then the environment.

        `config` defaults to the file named by `MCP_CONFIG`, if any. Raises
        `UserError` for an unreadable file, an unknown key or variable, or a
        value that is not of its form.
        """
        environ = os.environ if environ is None else environ
        path = config or (Path(environ[CONFIG_ENV]) if environ.get(CONFIG_ENV) else None)
        document = read_config(path) if path else {}
        values: dict[str, Any] = {}
        source: dict[str, str] = {}
        for section in _sections(cls):
            for key, value in document.get(section, {}).items():
                if key in _COMMON_ONLY and section != "common":
                    raise UserError(f"{path}: {section}.{key} belongs to section common: all parts must agree on it")
                values[key], source[key] = value, f"{path}: {section}.{key}"
        names = cls.env_names()
        for field, variable in names.items():
            if variable in environ:
                values[field] = _split(environ[variable], cls.model_fields[field])
                source[field] = variable
        _refuse_unknown_variables(cls, environ, frozenset(names.values()))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(_explain(error, source, names)) from None


class CommonSettings(Settings):
    """What every part of a pod shares; section `common` of the file."""

    section: ClassVar[str] = "common"
    env_prefix: ClassVar[str] = "MCP_"

    run_dir: Annotated[Path, from_env("MCP_RUN_DIR")] = Path("run")
    """Private directory (0700) with the pod's Unix sockets and the parts' announcements."""

    node_id: Annotated[str, from_env("MCP_NODE_ID", pattern=r"^[A-Za-z0-9._-]{1,128}$")] = "local"
    """Name of this pod in access logs and journals."""

    trust_domains: Annotated[list[str], from_env("MCP_TRUST_DOMAINS", min_length=1)] = ["mcp.internal"]
    """SPIFFE trust domains whose identities are accepted; identities of the first are written without it."""

    auth_type: Annotated[AuthType, from_env("MCP_AUTH_TYPE")] = "mtls"
    """What a client must show: `mtls` a certificate, `mtls+jwt` a certificate and a token, `jwt` or `oauth2` a token
    only, `none` nothing. All parts must agree, so it stands in section `common` only."""

    allow_no_auth: Annotated[bool, from_env("MCP_ALLOW_NO_AUTH")] = False
    """The switch without which `auth_type: none` does not start. For development: anybody is `anonymous`."""

    streamable_http: Annotated[bool, from_env("MCP_STREAMABLE_HTTP")] = False
    """Serve plain MCP over HTTPS, too: `POST`, `GET` and `DELETE` at `/mcp`, over HTTP/1.1 and HTTP/2, for clients that
    can run nothing of ours. The same identities, policy, limits and records as for gRPC."""

    log_format: Annotated[typing.Literal["auto", "json", "text"], from_env("MCP_LOG_FORMAT")] = "auto"
    """`auto` is text on a terminal and JSON otherwise."""

    log_level: Annotated[typing.Literal["DEBUG", "INFO", "WARNING", "ERROR"], from_env("MCP_LOG_LEVEL")] = "INFO"
    """Least severe level that is logged."""

    @field_validator("allow_no_auth")
    @classmethod
    def _no_auth_is_meant(cls, value: bool, info: ValidationInfo) -> bool:
        if info.data.get("auth_type") == "none" and not value:
            raise ValueError("must be true for authentication type none, which lets anybody in")
        return value


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """The YAML file's sections. Raises `UserError` naming the file for anything but a mapping of known sections."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"configuration file {path} cannot be read: {getattr(error, 'strerror', error)}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UserError(f"configuration file {path}{line} is not valid YAML") from None
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(value, dict | None) for value in document.values()):
        raise UserError(f"configuration file {path} must be a mapping of sections ({', '.join(sorted(SECTIONS))})")
    if unknown := sorted(str(key) for key in document if key not in SECTIONS):
        raise UserError(f"{path}: unknown section {unknown[0]!r}; known are {', '.join(sorted(SECTIONS))}")
    return {key: value or {} for key, value in document.items()}


def _sections(cls: type[Settings]) -> list[str]:
    return list(dict.fromkeys(str(vars(base)["section"]) for base in reversed(cls.__mro__) if "section" in vars(base)))


def _env_name(cls: type[Settings], name: str, info: FieldInfo) -> str:
    for base in cls.__mro__:
        if name in vars(base).get("__annotations__", {}):
            extra = info.json_schema_extra
            declared = extra.get("env") if isinstance(extra, dict) else None
            return str(declared) if declared else f"{getattr(base, 'env_prefix', cls.env_prefix)}{name.upper()}"
    raise LookupError(name)


def _split(text: str, info: FieldInfo) -> Any:
    """A variable's text, split at commas when its field is a list; the empty text is the empty list.

    A list of objects may be written as a JSON array, and a mapping is written as a JSON object.
    """
    annotation = info.annotation
    arms = typing.get_args(annotation) if typing.get_origin(annotation) in (types.UnionType, typing.Union) else ()
    if _holds_objects(annotation) and text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text  # not of its form, and refused as such
    if any(typing.get_origin(arm) in (list, tuple, frozenset) for arm in (annotation, *arms)):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _holds_objects(annotation: Any) -> bool:
    """Whether it is a mapping, or a list of objects."""
    if typing.get_origin(annotation) is dict:
        return True
    return any(isinstance(item, type) and issubclass(item, BaseModel) for item in typing.get_args(annotation))


def _refuse_unknown_variables(cls: type[Settings], environ: Mapping[str, str], known: frozenset[str]) -> None:
    """A misspelt variable would silently leave a default in force: refuse it. Only a part's own prefix is judged."""
    if cls.env_prefix == CommonSettings.env_prefix:
        return
    for variable in environ:
        if variable.startswith(cls.env_prefix) and variable not in known:
            raise UserError(f"unknown setting {variable}; known are {', '.join(sorted(known))}")


def _explain(error: ValidationError, source: Mapping[str, str], names: Mapping[str, str]) -> str:
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    inside = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"][1:])
    where = f"{source.get(field) or names.get(field) or field}{inside}"
    if first["type"] == "extra_forbidden":
        return f"unknown setting {where}" + ("" if inside else f"; known are {', '.join(sorted(names))}")
    if first["type"] == "missing":
        return f"{where if inside else names.get(field, field)} is not set; {first['msg'].lower()}"
    secret = "password" in field or "secret" in field or isinstance(first["input"], dict | list | tuple)
    shown = "" if secret else f" ({first['input']!r})"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}{shown}: {message[:1].lower()}{message[1:]}"
