"""Answers of the HTTP interface: headers, compression, streaming, and errors before and in the middle of a body."""

import json
import secrets
from collections.abc import Mapping

from starlette.types import Send

from trace_sink.store import compression, errors
from trace_sink.store.errors import StoreError

__all__ = ["Responder"]

_CONTENT_TYPES = {
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
}
_TEXT = "text/tab-separated-values; charset=UTF-8"


class Responder:
    """One response. `gone` becomes true when nobody reads it any more."""

    def __init__(self, send: Send, timezone: str) -> None:
        self._send = send
        self._timezone = timezone
        self._query_id = ""
        self._coding = ""
        self._compressor: compression.Compressor | None = None
        self._tag = secrets.token_hex(8)
        self._begun = False
        self.gone = False

    def start_call(self, query_id: str, coding: str) -> None:
        """Which query this answers, and in which content coding ("" for none)."""
        self._query_id = query_id
        self._coding = coding

    async def whole(self, body: bytes, format_name: str, summary: Mapping[str, str]) -> None:
        """Answer with all of `body` at once."""
        headers = self._headers(format_name)
        if summary:
            headers["X-ClickHouse-Summary"] = json.dumps(summary)
        if body and self._coding:
            packer = compression.compressor(self._coding)
            body = packer.feed(body) + packer.finish()
            headers["Content-Encoding"] = self._coding
        headers["Content-Length"] = str(len(body))
        await self._start(200, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, format_name: str) -> None:
        """Begin an answer in blocks."""
        headers = self._headers(format_name)
        headers["X-ClickHouse-Exception-Tag"] = self._tag
        if self._coding:
            self._compressor = compression.compressor(self._coding)
            headers["Content-Encoding"] = self._coding
        await self._start(200, headers)

    async def send_block(self, block: bytes) -> None:
        """Returns once the client has room for more."""
        data = self._compressor.feed(block) if self._compressor else block
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        tail = self._compressor.finish() if self._compressor else b""
        await self._send({"type": "http.response.body", "body": tail})

    async def error(self, error: StoreError) -> None:
        """Answer with an error; in the middle of a body, as the tagged block that ClickHouse's clients look for."""
        text = f"{error.text}\n".encode(errors="replace")
        if self._begun:
            frame = f"\r\n__exception__\r\n{self._tag}\r\n".encode()
            frame += text + f"{len(text)} {self._tag}\r\n__exception__\r\n".encode()
            await self.send_block(frame)
            await self.end()
            return
        headers = self._headers("")
        headers["X-ClickHouse-Exception-Code"] = str(error.code)
        headers["Content-Length"] = str(len(text))
        if error.code == errors.AUTHENTICATION_FAILED[0]:
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse"'
        await self._start(error.http_status, headers)
        await self._send({"type": "http.response.body", "body": text})

    async def plain(self, status: int, text: str) -> None:
        await self._start(status, {"Content-Type": "text/plain; charset=UTF-8", "Content-Length": str(len(text))})
        await self._send({"type": "http.response.body", "body": text.encode()})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self._begun = True
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    def _headers(self, format_name: str) -> dict[str, str]:
        headers = {"Content-Type": _CONTENT_TYPES.get(format_name, _TEXT), "X-ClickHouse-Timezone": self._timezone}
        headers["X-ClickHouse-Server-Display-Name"] = "embedded"
        headers["Cache-Control"] = "no-store"
        if format_name:
            headers["X-ClickHouse-Format"] = format_name
        if self._query_id:
            headers["X-ClickHouse-Query-Id"] = self._query_id
        return headers
