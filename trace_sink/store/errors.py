"""ClickHouse's errors as values: code, name, sentence, and the HTTP status that carries them."""

import re
from typing import Final

__all__ = ["ACCESS_DENIED", "AUTHENTICATION_FAILED", "BAD_ARGUMENTS", "NOT_IMPLEMENTED", "READONLY", "StoreError"]

BAD_ARGUMENTS: Final = (36, "BAD_ARGUMENTS")
UNKNOWN_FORMAT: Final = (73, "UNKNOWN_FORMAT")
NOT_IMPLEMENTED: Final = (48, "NOT_IMPLEMENTED")
READONLY: Final = (164, "READONLY")
QUERY_IS_TOO_LARGE: Final = (290, "QUERY_IS_TOO_LARGE")
SESSION_NOT_FOUND: Final = (372, "SESSION_NOT_FOUND")
SESSION_IS_LOCKED: Final = (373, "SESSION_IS_LOCKED")
ACCESS_DENIED: Final = (497, "ACCESS_DENIED")
AUTHENTICATION_FAILED: Final = (516, "AUTHENTICATION_FAILED")
UNKNOWN_SETTING: Final = (115, "UNKNOWN_SETTING")
INCORRECT_DATA: Final = (117, "INCORRECT_DATA")
QUERY_WAS_CANCELLED: Final = (394, "QUERY_WAS_CANCELLED")

_STATUS = {
    # As src/Server/HTTP of ClickHouse assigns them; 500 for the rest.
    **dict.fromkeys((516, 497, 164, 192, 193, 194), 403),
    **dict.fromkeys((60, 81, 46, 47, 115, 372), 404),
    **dict.fromkeys((6, 26, 27, 36, 38, 41, 43, 53, 62, 69, 70, 72, 73, 117, 456, 457), 400),
    48: 501,
    159: 408,
    290: 413,
    202: 503,
    373: 423,
}
_CODE = re.compile(r"Code: (\d+)\. ")
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]{2,})\)")
_VERSION_TAIL = re.compile(r"\s*\(version [^)]*\)")


class StoreError(Exception):
    """A failed request as ClickHouse reports it: `Code: 62. DB::Exception: sentence. (NAME)`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @classmethod
    def of(cls, kind: tuple[int, str], sentence: str) -> "StoreError":
        code, name = kind
        return cls(code, f"Code: {code}. DB::Exception: {sentence}. ({name})")

    @classmethod
    def from_engine(cls, error: RuntimeError) -> "StoreError":
        """The engine's exception; it repeats itself at times, which is taken out."""
        text = _VERSION_TAIL.sub("", str(error)).strip()
        found = _CODE.search(text)
        code = int(found.group(1)) if found else 1000
        prefix = f"Code: {code}. DB::Exception: "
        while text.startswith(prefix * 2):
            text = text.removeprefix(prefix)
        names = _NAME.findall(text)
        if len(names) > 1 and text.endswith(f"({names[-1]}). ({names[-1]})"):
            text = text.removesuffix(f". ({names[-1]})")
        return cls(code, text if found else f"{prefix}{text}")

    @property
    def http_status(self) -> int:
        return _STATUS.get(self.code, 500)
