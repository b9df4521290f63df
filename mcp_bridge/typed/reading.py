"""Reading MCP's JSON for messages that have no place for all of it: whatever is not carried is named.

Between decoded JSON and `items`, `inputs` and `results`. Pure.
"""

import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from google.protobuf import struct_pb2

__all__ = ["CannotCarry", "Lost", "Object", "as_float32", "fill_struct", "not_mcp", "pointer"]

_MAX_EXACT: Final = 2**53
_MAX_DEPTH: Final = 30
"""Of a value in a `Struct`: google.protobuf parses 100 nested messages, three for each level and some around it."""
_MAX_PATHS: Final = 1000
_MAX_PATH_CHARS: Final = 1000
_MAX_FLOAT32: Final = 3.4028234663852886e38


class CannotCarry(ValueError):
    """The typed service has no way to say this; its text is a sentence for the peer."""


def not_mcp() -> CannotCarry:
    return CannotCarry("the answer is not of MCP's form")


def pointer(path: str, key: str | int) -> str:
    """The JSON Pointer (RFC 6901) of a member of what `path` points to."""
    return f"{path}/{key}" if isinstance(key, int) else f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


class Lost:
    """JSON Pointers of what a message does not carry, or not exactly. The last is "", all of it, where there are more.

    Bounded, for an MCP server decides how many there are.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []

    def add(self, path: str) -> None:
        if len(self.paths) >= _MAX_PATHS or len(path) > _MAX_PATH_CHARS:
            path = ""
        if path or not self.paths or self.paths[-1]:
            self.paths.append(path)

    def mark(self) -> int:
        return len(self.paths)

    def back_to(self, mark: int) -> None:
        """Forget what came since `mark`."""
        del self.paths[mark:]


class Object:
    """A JSON object at `path`, of which each member is taken once. At the end of `with`, what nobody took is lost.

    null is an absent member, as MCP's own libraries have it, where MCP knows the member. An optional member
    of another type than MCP says is lost; a required one makes the answer
    not of MCP's form (`CannotCarry`).
    """

    def __init__(self, value: Any, path: str, lost: Lost) -> None:
        if not isinstance(value, dict):
            raise not_mcp()
        self._value: Mapping[str, Any] = value
        self._taken: set[str] = set()
        self.path = path
        self.lost = lost

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            for key in self._value:
                if key not in self._taken:
                    self.lose(key)

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def at(self, key: str) -> str:
        return pointer(self.path, key)

    def lose(self, key: str) -> None:
        self._taken.add(key)
        self.lost.add(self.at(key))

    def take(self, key: str) -> Any:
        self._taken.add(key)
        return self._value.get(key)

    def expect(self, key: str, value: str) -> None:
        """A required member that says what the message's type says."""
        if self.take(key) != value:
            raise not_mcp()

    def name(self, key: str) -> str:
        """A required string."""
        value = self.take(key)
        if not isinstance(value, str):
            raise not_mcp()
        return value

    def text(self, key: str) -> str:
        """An optional string whose field reads as absent where it is empty."""
        return self.optional_text(key) or self._empty(key, "")

    def optional_text(self, key: str) -> str | None:
        """An optional string whose field knows absence."""
        value = self.take(key)
        return value if value is None or isinstance(value, str) else self._unfit(key)

    def flag(self, key: str, default: bool) -> bool:
        """An optional boolean; absent it means `default`."""
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            self.lose(key)
            return default
        return default if value is None else value

    def whole(self, key: str, low: int, high: int) -> int | None:
        """An optional integer that fits its field."""
        value = self.take(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
            return value
        self.lose(key)
        return None

    def number(self, key: str) -> float | None:
        """An optional number for a field of 64 bits."""
        value = self.take(key)
        if value is None or not _is_number(value) or abs(value) > 1e308:
            return None if value is None else self._unfit(key)
        if float(value) != value:
            self.lose(key)
        return float(value)

    def short_number(self, key: str) -> float | None:
        """An optional number for a field of 32 bits."""
        value = self.take(key)
        if value is None or not _is_number(value) or abs(value) > _MAX_FLOAT32:
            return None if value is None else self._unfit(key)
        if as_float32(float(value)) != value:
            self.lose(key)
        return float(value)

    def items(self, key: str, *, required: bool = False) -> list[Any]:
        """A list. An optional one that is empty reads as absent."""
        value = self.take(key)
        if value is None and not required:
            return []
        if not isinstance(value, list):
            return self._none(key, required)
        if not value and not required:
            self.lose(key)
        return value

    def texts(self, key: str, *, required: bool = False) -> list[str]:
        """A list of strings; an optional one with something else in it is lost."""
        value = self.items(key, required=required)
        if all(isinstance(one, str) for one in value):
            return value
        return self._none(key, required)

    def meta(self, target: struct_pb2.Struct) -> None:
        """`_meta`: what is too deep is left out."""
        self.struct("_meta", target, exact=False, whole=False)

    def struct(self, key: str, target: struct_pb2.Struct, *, exact: bool, whole: bool) -> None:
        """An optional object, as `fill_struct` does it."""
        value = self.take(key)
        if isinstance(value, dict):
            fill_struct(target, value, self.at(key), self.lost, exact=exact, whole=whole)
        elif value is not None:
            self.lose(key)

    def _unfit(self, key: str) -> Any:
        self.lose(key)
        return None

    def _none(self, key: str, required: bool) -> list[Any]:
        if required:
            raise not_mcp()
        self.lose(key)
        return []

    def _empty(self, key: str, empty: str) -> str:
        if self._value.get(key) == empty:
            self.lose(key)
        return empty


def as_float32(number: float) -> float:
    """The number that a reader takes out of a 32-bit field: the shortest decimal, as languages print it."""
    stored: float = struct.unpack("<f", struct.pack("<f", number))[0]
    short = float(f"{stored:.6g}")
    return short if struct.pack("<f", short) == struct.pack("<f", stored) else stored


def fill_struct(target: Any, value: Mapping[str, Any], path: str, lost: Lost, *, exact: bool, whole: bool) -> None:
    """Write a JSON object. Raises `CannotCarry`, with `exact` for an integer that 64-bit floats do not have (else it is
    rounded and named) and with `whole` for a value nested too deeply (else that is left out and named)."""
    target.SetInParent()
    target.update(_fitting(value, path, 0, lost, exact=exact, whole=whole))


def _fitting(value: Any, path: str, depth: int, lost: Lost, *, exact: bool, whole: bool) -> Any:
    if isinstance(value, dict | list):
        if depth >= _MAX_DEPTH:
            if whole:
                raise CannotCarry("a value is nested too deeply for this service; use McpTransport")
            lost.add(path)
            return None
        if isinstance(value, dict):
            return {
                key: _fitting(item, pointer(path, key), depth + 1, lost, exact=exact, whole=whole)
                for key, item in value.items()
            }
        return [
            _fitting(item, pointer(path, number), depth + 1, lost, exact=exact, whole=whole)
            for number, item in enumerate(value)
        ]
    if isinstance(value, int) and abs(value) > _MAX_EXACT:
        if exact:
            raise CannotCarry("an integer is too large for this service; use McpTransport")
        lost.add(path)
        return float(value) if abs(value) < 10**308 else None
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
