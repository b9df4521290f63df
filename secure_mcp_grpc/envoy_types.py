"""Envoy's configuration against Envoy's types (PyPI envoy-data-plane), naming the path of what is wrong.

Pure: a parsed document in, a `Bootstrap` or a `UserError` out. Types that are
named inside (`@type`) are found by their protobuf package and checked too.
"""

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from secure_mcp_grpc.errors import UserError

__all__ = ["bootstrap", "check"]

_TYPE_PREFIX = "type.googleapis.com/"
_WIRE_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "bool": (bool,),
    "float": (int, float),
    "double": (int, float),
}
_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, AssertionError)
"""What betterproto2 and pydantic raise for a value that is not of its type (a ValidationError is a ValueError)."""


def bootstrap(document: Any) -> Any:
    """`document` as `envoy.config.bootstrap.v3.Bootstrap`; raises `UserError` for an unknown field or a wrong type."""
    with warnings.catch_warnings():
        # The generated classes still use pydantic's validators in a way that it deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap

        check(document, Bootstrap, "")
        try:
            return Bootstrap.from_dict(document)
        except _REFUSALS as error:
            raise UserError(f"Envoy configuration does not fit Envoy's types: {_first_line(error)}") from None


def check(value: Any, cls: Any, path: str) -> None:
    """Judge one message of the betterproto2 class `cls`, and everything in it."""
    if cls.__module__.endswith("google.protobuf") and cls.__name__ == "Any":
        cls, value = _resolve(value, path)
    if not isinstance(value, Mapping):
        raise UserError(f"Envoy configuration: {path or 'the document'} must be a mapping, not {_kind(value)}")
    if cls.__module__.endswith("google.protobuf"):
        _accept(cls, value, path)
        return
    groups: dict[str, str] = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else str(key)
        meta = cls._betterproto.meta_by_field_name.get(_field(key))
        if meta is None:
            raise UserError(f"Envoy configuration: unknown field {where}; {cls.__name__} has none of this name")
        if meta.group and groups.setdefault(meta.group, key) != key:
            raise UserError(f"Envoy configuration: {where} and {groups[meta.group]} exclude each other")
        _check_field(item, cls, _field(key), where)


def _check_field(value: Any, cls: Any, name: str, path: str) -> None:
    meta = cls._betterproto.meta_by_field_name[name]
    if meta.proto_type == "map":
        if not isinstance(value, Mapping):
            raise UserError(f"Envoy configuration: {path} must be a mapping, not {_kind(value)}")
        item_type, item_meta = cls._betterproto.cls_by_field[f"{name}.value"], meta.map_meta[1]
        for key, item in value.items():
            _check_value(item, item_type, item_meta, f"{path}[{key}]")
    elif meta.repeated:
        if not isinstance(value, list):
            raise UserError(f"Envoy configuration: {path} must be a list, not {_kind(value)}")
        for index, item in enumerate(value):
            _check_value(item, cls._betterproto.cls_by_field[name], meta, f"{path}[{index}]")
    else:
        _check_value(value, cls._betterproto.cls_by_field[name], meta, path)


def _check_value(value: Any, cls: Any, meta: Any, path: str) -> None:
    if meta.proto_type == "message":
        if meta.unwrap:
            _accept(meta.unwrap(), value, path, wrapped=cls)
        else:
            check(value, cls, path)
    elif meta.proto_type == "enum":
        names = cls.betterproto_renamed_proto_names_to_value()
        if not isinstance(value, str) or not (value in names or value in cls.__members__):
            raise UserError(f"Envoy configuration: {path} is not a {cls.__name__}: {value!r}")
    elif meta.proto_type == "bytes":
        if not isinstance(value, str):
            raise UserError(f"Envoy configuration: {path} must be base64 text, not {_kind(value)}")
    elif not _fits(value, _WIRE_TYPES.get(meta.proto_type, (int,))):
        raise UserError(f"Envoy configuration: {path} must be of type {meta.proto_type}, not {_kind(value)}")


def _accept(cls: Any, value: Any, path: str, *, wrapped: type | None = None) -> None:
    """Well-known types: a wrapped scalar must be of its type; durations and structs parse themselves."""
    if wrapped in (bool, str, int, float) and not _fits(value, (int, float) if wrapped is float else (wrapped,)):
        raise UserError(f"Envoy configuration: {path} must be of type {wrapped.__name__}, not {_kind(value)}")
    try:
        cls.from_dict(value)
    except _REFUSALS:
        raise UserError(f"Envoy configuration: {path} is not a {cls.__name__}: {value!r}") from None


def _resolve(value: Any, path: str) -> tuple[Any, Any]:
    """Class and content of a `google.protobuf.Any`; importing its module also makes betterproto2 know it."""
    url = value.get("@type") if isinstance(value, Mapping) else None
    if not isinstance(url, str) or not url.startswith(_TYPE_PREFIX):
        raise UserError(f"Envoy configuration: {path} needs an @type that starts with {_TYPE_PREFIX}")
    from envoy_data_plane.message_pool import default_message_pool

    package = url.removeprefix(_TYPE_PREFIX).rpartition(".")[0]
    try:
        if not package.replace(".", "").replace("_", "").isalnum():
            raise ImportError(package)
        import_module(f"envoy_data_plane.{package}")
        cls = default_message_pool.url_to_type[url]
    except (ImportError, KeyError):
        raise UserError(f"Envoy configuration: {path} has an unknown @type: {url}") from None
    return cls, {key: item for key, item in value.items() if key != "@type"}


def _field(key: Any) -> str:
    from betterproto2.casing import safe_snake_case

    return str(safe_snake_case(key)) if isinstance(key, str) else ""


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def _kind(value: Any) -> str:
    return {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}.get(
        type(value), type(value).__name__
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
