"""What an MCP server lists, as one caller may see it: between an upstream's answer and the caller.

The same policy that judges calls decides which tools, prompts, resources and
templates are shown; authz_service is asked once for each page
(`secure_mcp_grpc.v1.PolicyQuery`), and nothing is remembered, for the policy
may have changed. A list that cannot be read or judged is refused, never
passed on.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import msgspec
from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.errors import HopError, overloaded, unavailable
from mcp_bridge.exchange import Caller, Exchange
from mcp_bridge.guards import Ask
from mcp_bridge.upstreams.merge import LISTS
from secure_mcp_grpc import logs
from secure_mcp_grpc.calls import Malformed, check_name
from secure_mcp_grpc.v1 import policy_query_pb2 as pb

__all__ = ["HIDDEN", "Page", "PolicyLists", "authz_channel", "read_page", "write_page"]

logger = logging.getLogger(__name__)

HIDDEN: Final = "secure-mcp-grpc/hidden"
"""Key in a result's `_meta`: what is hidden and why, for a caller that asked (`wire.EXPLAIN`) and may know."""

_FILTER: Final = "/secure_mcp_grpc.v1.PolicyQuery/Filter"
_MAX_ITEMS: Final = 20_000
_MAX_ASKED_NAMES: Final = 500
_MAX_ASKED_CHARS: Final = 200_000
"""Of one query, so that authz_service is never busy with a list for long: decisions wait behind it."""
_MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
_NOT_A_LIST: Final = HopError(grpc.StatusCode.INTERNAL, "the MCP server's list is not of MCP's form")
_NOT_JUDGED: Final = HopError(grpc.StatusCode.INTERNAL, "the list could not be judged, so nothing of it is shown")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    member: str
    """Of the result, that holds the items."""
    members: dict[str, Raw]
    """Of the result, all of them."""
    names: list[str]
    items: list[Raw]
    """The JSON of each name's item."""
    unusable: int
    """Items without a name that a call could have."""


class PolicyLists:
    """A `Guard`: shows what policy lets the caller use. `count` takes `shown`, `hidden` or `unusable`, and how many."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float, count: Callable[[str, int], None]) -> None:
        self._query = channel.unary_unary(_FILTER, pb.FilterRequest.SerializeToString, pb.FilterResponse.FromString)
        self._timeout_s = timeout_s
        self._count = count

    async def request(self, exchange: Exchange, caller: Caller, ask: Ask) -> bytes:
        answer = await ask(exchange)
        return await self._filter(exchange, caller, answer) if exchange.call.method in LISTS else answer

    async def _filter(self, exchange: Exchange, caller: Caller, answer: bytes) -> bytes:
        method = exchange.call.method
        try:
            envelope = wire.read_envelope(answer)
            if bytes(envelope.error):
                return wire.response_with_id(envelope, exchange.id_json)
            page = read_page(method, bytes(envelope.result))
        except wire.NotJson:
            logs.event(logger, logging.WARNING, "list_not_understood", server=exchange.server, method=method)
            raise _NOT_A_LIST from None
        if len(page.items) > _MAX_ITEMS:
            raise overloaded(f"the list has more than {_MAX_ITEMS} items on one page")
        if page.unusable:
            logs.event(
                logger,
                logging.WARNING,
                "list_items_dropped",
                server=exchange.server,
                method=method,
                items=page.unusable,
            )
        visible, hidden = await self._judge(method, page.names, caller, explain=exchange.meta.wants_explanation)
        shown = sum(visible)
        self._count("shown", shown)
        self._count("hidden", len(visible) - shown)
        self._count("unusable", page.unusable)
        return wire.result(exchange.id_json, write_page(page, visible, hidden))

    async def _judge(
        self, method: str, names: Sequence[str], caller: Caller, *, explain: bool
    ) -> tuple[list[bool], list[dict[str, str]] | None]:
        visible: list[bool] = []
        hidden: list[dict[str, str]] = []
        explained = explain
        for part in _parts(names, even_none=explain):
            request = pb.FilterRequest(
                subject=caller.subject,
                user=caller.user,
                user_roles=caller.user_roles,
                method=method,
                names=part,
                explain=explain,
            )
            response = await self._ask(request)
            if len(response.visible) != len(part) or any(one.index >= len(part) for one in response.hidden):
                raise _NOT_JUDGED
            visible += response.visible
            explained = explained and response.explained
            hidden += [_explanation(part[one.index], one) for one in response.hidden]
        return visible, hidden if explained else None

    async def _ask(self, request: pb.FilterRequest) -> pb.FilterResponse:
        try:
            response: pb.FilterResponse = await self._query(request, timeout=self._timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            logs.event(logger, logging.WARNING, "policy_not_asked", status=error.code().name)
            raise unavailable("authz_service did not say what of the list may be shown; try again") from None
        return response


def authz_channel(address: str) -> grpc.aio.Channel:
    """A channel that finds authz_service again within a moment after a restart."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 250),
            ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
        ],
    )


def read_page(method: str, result: bytes) -> Page:
    """The items of a list method's result; raises `wire.NotJson` for anything but a list in MCP's form.

    What a lenient reader could take for the list, a member whose name differs
    in case only, is no list either.
    """
    member, key = LISTS[method]
    members = wire.object_of(result)
    try:
        texts = msgspec.json.decode(bytes(members[member]), type=list[Raw])
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise wire.NotJson from None
    if _twins(members, member):
        raise wire.NotJson
    read = [item for text in texts if (item := _read_item(bytes(text), key)) is not None]
    names, items = [name for name, _ in read], [item for _, item in read]
    return Page(member, members, names, items, len(texts) - len(read))


def write_page(page: Page, visible: Sequence[bool], hidden: Sequence[dict[str, str]] | None) -> bytes:
    """The result with the visible items alone, for its caller alone; with `hidden` in `_meta` unless that is None."""
    members = dict(page.members)
    kept = [item for item, shown in zip(page.items, visible, strict=True) if shown]
    members[page.member] = Raw(msgspec.json.encode(kept))
    if "cacheScope" in members:  # 2026-07-28, CacheableResult: public would let a cache show it to others
        members["cacheScope"] = Raw(b'"private"')
    _explain(members, hidden)
    return msgspec.json.encode(members)


def _read_item(text: bytes, key: str) -> tuple[str, Raw] | None:
    """Name and JSON of an item, its values byte for byte; None where no call could name it.

    The JSON is written anew from the members that were judged: of two equal
    keys another reader might take the other one.
    """
    try:
        members = wire.object_of(text)
        name: str = msgspec.json.decode(bytes(members[key]), type=str)
        check_name(name)
    except (wire.NotJson, KeyError, msgspec.MsgspecError, UnicodeDecodeError, Malformed):
        return None
    if not name or _twins(members, key):
        return None
    return name, Raw(msgspec.json.encode(members))


def _twins(members: dict[str, Raw], key: str) -> bool:
    folded = key.casefold()
    return any(other != key and other.casefold() == folded for other in members)


def _explain(members: dict[str, Raw], hidden: Sequence[dict[str, str]] | None) -> None:
    """Sets `HIDDEN`, and takes away one that the MCP server wrote itself."""
    try:
        meta = wire.object_of(bytes(members["_meta"])) if "_meta" in members else {}
    except wire.NotJson:
        meta = {}
    changed = meta.pop(HIDDEN, None) is not None
    if hidden is not None:
        meta[HIDDEN] = Raw(msgspec.json.encode(hidden))
    if changed or hidden is not None:
        members["_meta"] = Raw(msgspec.json.encode(meta))


def _explanation(name: str, hidden: pb.Hidden) -> dict[str, str]:
    told = {"name": name, "reason": hidden.reason, "message": hidden.sentence}
    return told | {"rule": hidden.rule} if hidden.rule else told


def _parts(names: Sequence[str], *, even_none: bool) -> Iterator[list[str]]:
    """`names` in portions that one query may hold; one empty portion for none of them, with `even_none`."""
    part: list[str] = []
    chars = 0
    for name in names:
        if part and (len(part) >= _MAX_ASKED_NAMES or chars + len(name) > _MAX_ASKED_CHARS):
            yield part
            part, chars = [], 0
        part.append(name)
        chars += len(name)
    if part or (even_none and not names):
        yield part
