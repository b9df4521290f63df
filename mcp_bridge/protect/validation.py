"""The guard of schemas: of arguments before the MCP server sees them, of structured results before the caller does.

MCP 2025-11-25, "Error Handling" of tools (SEP-1303): what is wrong with the
arguments is told in the tool's result (`isError`), so that a model can mend
it; 2026-07-28 says the same. A structured result that breaks its own schema is
the server's fault and is answered with a JSON-RPC error.
"""

import logging
from collections.abc import Callable
from typing import Any, Final, Literal

import grpc
import msgspec
from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Caller, Exchange
from mcp_bridge.guards import Ask
from mcp_bridge.protect.catalog import Catalog, Offer
from mcp_bridge.protect.findings import safe
from mcp_bridge.protect.validators import Unusable, Validator, Validators
from secure_mcp_grpc import logs
from secure_mcp_grpc.calls import STRICT_JSON, Malformed

__all__ = ["Validation"]

logger = logging.getLogger(__name__)

INVALID_ARGUMENTS: Final = "invalid_arguments"
INVALID_RESULT: Final = "invalid_result"
UNUSABLE: Final = "schema_unusable"

_MAX_LOGGED: Final = 10_000
_NOT_FINAL: Final = frozenset({"input_required", "task"})
_WITHOUT_STRUCTURE: Final = frozenset({"2024-11-05", "2025-03-26"})
"""Versions that do not know structured results: there may be none, but what there is must fit."""


class _Result(msgspec.Struct, frozen=True, gc=False):
    structured: Raw = msgspec.field(name="structuredContent", default=Raw(b""))
    is_error: bool = msgspec.field(name="isError", default=False)
    type: str = msgspec.field(name="resultType", default="complete")


_result = msgspec.json.Decoder(_Result)


class Validation:
    """A `Guard`. `unusable`: what becomes of calls to a tool with such a schema. `count` takes a finding's code."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        arguments: bool,
        results: bool,
        unusable: Literal["refuse", "pass"],
        count: Callable[[str], None],
    ) -> None:
        self._catalog = catalog
        self._arguments = arguments
        self._results = results
        self._refuse_unusable = unusable == "refuse"
        self._count = count
        self._validators = Validators()
        self._logged: dict[tuple[str, str], None] = {}

    async def request(self, exchange: Exchange, caller: Caller, ask: Ask) -> bytes:
        if exchange.call.method != "tools/call":
            return await ask(exchange)
        offers = await self._catalog.current(exchange, "tools", exchange.call.name, ask)
        for offer in offers:
            if (refusal := self._before(exchange, offer)) is not None:
                return refusal
        answer = await ask(exchange)
        if self._results:
            for offer in offers:
                if (refusal := self._after(exchange, offer, answer)) is not None:
                    return refusal
        return answer

    def _before(self, exchange: Exchange, offer: Offer) -> bytes | None:
        """Both schemas are looked at before the call: it is not refused when it is done."""
        if self._results:
            self._validator(exchange, offer, "outputSchema")
        if not self._arguments:
            return None
        validator = self._validator(exchange, offer, "inputSchema")
        fault = validator.fault(exchange.call.arguments, len(exchange.params_json)) if validator else None
        if fault is None:
            return None
        self._found(exchange, INVALID_ARGUMENTS, offer, path=fault.path, rule=fault.rule)
        return _tool_error(exchange, f"Invalid arguments for tool {safe(offer.name)}: {fault}")

    def _after(self, exchange: Exchange, offer: Offer, answer: bytes) -> bytes | None:
        validator = offer.output
        problem = (
            _problem(validator, answer, exchange.call.protocol_version) if isinstance(validator, Validator) else None
        )
        if problem is None:
            return None
        path, rule, text = problem
        self._found(exchange, INVALID_RESULT, offer, path=path, rule=rule)
        sentence = f"the result of tool {safe(offer.name)} does not match its output schema: {path}: {text}"
        return wire.error(exchange.id_json, wire.INTERNAL_ERROR, sentence)

    def _validator(self, exchange: Exchange, offer: Offer, member: str) -> Validator | None:
        """None where there is no such schema, or an unusable one is let pass; else raises `HopError` for that."""
        known = offer.input if member == "inputSchema" else offer.output
        if known is None:
            known = self._prepare(offer, member)
            if member == "inputSchema":
                offer.input = known
            else:
                offer.output = known
        if isinstance(known, Unusable):
            self._unusable(exchange, offer, member, known)
        return known if isinstance(known, Validator) else None

    def _prepare(self, offer: Offer, member: str) -> Validator | Unusable | bool:
        """The validator of a schema; False where there is none."""
        if offer.definition is None:
            return Unusable("its definition can be read in more than one way")
        schema = offer.definition.get(member)
        if schema is None:
            return False
        try:
            return self._validators.of(schema)
        except Unusable as error:
            return error.with_traceback(None)

    def _unusable(self, exchange: Exchange, offer: Offer, member: str, why: Unusable) -> None:
        self._found(exchange, UNUSABLE, offer, schema=member, reason=str(why))
        if self._refuse_unusable:
            raise HopError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the {member} of tool {safe(offer.name)} cannot be used to check a call: {why}; the setting "
                "unusable_schemas: pass lets such calls through unchecked",
            )

    def _found(self, exchange: Exchange, finding: str, offer: Offer, **fields: Any) -> None:
        exchange.finding = finding
        self._count(finding)
        known = (finding, offer.name)
        if finding == INVALID_ARGUMENTS or known in self._logged:
            return  # a caller's mistake is in the record; the server's is told once
        if len(self._logged) >= _MAX_LOGGED:
            self._logged.pop(next(iter(self._logged)))
        self._logged[known] = None
        logs.event(logger, logging.WARNING, finding, server=exchange.server, tool=safe(offer.name), **fields)


def _problem(validator: Validator, answer: bytes, version: str) -> tuple[str, str, str] | None:
    """Path, rule and sentence of what is wrong with a tool's answer. Errors, and what is not final, have no form."""
    try:
        envelope = wire.read_envelope(answer)
        body = bytes(envelope.result)
        if not body:
            return None
        result = _result.decode(body)
        structured = bytes(result.structured)
        if result.is_error or (not structured and (result.type in _NOT_FINAL or version in _WITHOUT_STRUCTURE)):
            return None
        if not structured:
            return "$", "required", "there is no structuredContent"
        if body.count(b'"structuredContent"') > 1:
            STRICT_JSON.decode(body.decode())  # a second one, which other readers might take, is refused
        value = STRICT_JSON.decode(structured.decode())
    except (wire.NotJson, Malformed, msgspec.MsgspecError, ValueError, RecursionError):
        return "$", "json", "it cannot be read"
    fault = validator.fault(value, len(structured))
    return None if fault is None else (fault.path, fault.rule, fault.text)


def _tool_error(exchange: Exchange, text: str) -> bytes:
    members: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if exchange.meta.is_modern:
        members["resultType"] = "complete"
    return wire.result(exchange.id_json, msgspec.json.encode(members))
