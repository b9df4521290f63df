"""`InteractionTracer`: requests and responses of one application, sanitized, as lines of JSON in a directory.

For applications and tests. What a sidecar records goes to trace_sink, without
any code in the application.
"""

import asyncio
import contextlib
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from mcp_bridge.capture.sanitize import Sanitizer

__all__ = ["InteractionTracer"]

_MAX_PAYLOAD_BYTES = 64 * 1024


class InteractionTracer:
    """Appends to `storage_path/traces-YYYYMMDD.jsonl` (UTC; directory 0700, files 0600).

    `sanitize_fields` are redacted at any depth, besides everything that the
    sidecar redacts. Raises `UserError` for a format other than jsonl or a
    directory that cannot be made.
    """

    def __init__(
        self,
        storage_path: Path | str,
        export_format: str = "jsonl",
        sanitize_fields: Sequence[str] = (),
        *,
        max_payload_bytes: int = _MAX_PAYLOAD_BYTES,
    ) -> None:
        if export_format != "jsonl":
            raise UserError(f"export_format {export_format!r}: only jsonl is written")
        self._directory = Path(storage_path)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self._directory} cannot be made: {error.strerror}") from None
        self._max_payload_bytes = max_payload_bytes
        self._sanitizer = _sanitizer(tuple(sanitize_fields))

    async def record_request(
        self, method: str, params: Any, session_id: str = "", user_id: str = "", request_id: str = ""
    ) -> str:
        """Record a request; returns its id, a new one unless `request_id` gives it."""
        request_id = request_id or str(uuid.uuid4())
        payload = self._sanitized(params)
        entry = {"method": method, "params": payload, "session_id": session_id, "user_id": user_id}
        await self._write("request", request_id, entry)
        return request_id

    async def record_response(
        self, request_id: str, result: Any, session_id: str = "", processing_time_ms: float = 0.0, error: str = ""
    ) -> None:
        """Record what answered the request `request_id`, or the error that did."""
        entry = {"result": self._sanitized(result), "session_id": session_id, "processing_time_ms": processing_time_ms}
        await self._write("response", request_id, entry | ({"error": error} if error else {}))

    @contextlib.asynccontextmanager
    async def tracing(self, method: str, params: Mapping[str, Any] | None) -> AsyncIterator[list[Any]]:
        """Record a request and what ends it; put the result into the list."""
        request_id = await self.record_request(method, params)
        started = time.perf_counter()
        answer: list[Any] = []
        failure = ""
        try:
            yield answer
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            elapsed_ms = round((time.perf_counter() - started) * 1000, 3)
            await self.record_response(
                request_id, answer[0] if answer else None, processing_time_ms=elapsed_ms, error=failure
            )

    async def _write(self, kind: str, request_id: str, entry: Mapping[str, Any]) -> None:
        now = datetime.now(UTC)
        line = {"ts": now.isoformat(timespec="microseconds"), "kind": kind, "request_id": request_id, **entry}
        path = self._directory / f"traces-{now:%Y%m%d}.jsonl"
        await asyncio.to_thread(_append, path, json.dumps(line, ensure_ascii=False) + "\n")

    def _sanitized(self, value: Any) -> Any:
        """As JSON; as text, where it had to be cut."""
        text = self._sanitizer.text(value, self._max_payload_bytes)
        try:
            return json.loads(text) if text else value
        except ValueError:
            return text


def _sanitizer(fields: tuple[str, ...]) -> "Sanitizer":
    from mcp_bridge.capture.keyed import load_key
    from mcp_bridge.capture.patterns import BUILT_IN
    from mcp_bridge.capture.rules import Rules, compile_fields, compile_paths
    from mcp_bridge.capture.sanitize import Sanitizer

    return Sanitizer(Rules(BUILT_IN, compile_fields(fields), compile_paths([])), load_key(None))


def _append(path: Path, line: str) -> None:
    """One write of a whole line: several tracers may share the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode("utf-8", "backslashreplace"))
    finally:
        os.close(descriptor)
