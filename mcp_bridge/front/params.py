"""`Mcp-Param-…` headers of tool calls against their bodies (2026-07-28, Streamable HTTP, "Custom Headers").

Which arguments a tool mirrors stands in its input schema. Lists that pass by
are remembered; a tool that none of them named is looked up, with the caller's
rights, by one `tools/list` of our own.
"""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from contextlib import aclosing
from decimal import Decimal
from typing import Any, Final

from mcp_bridge import wire
from mcp_bridge.front import rules
from mcp_bridge.front.access import values
from mcp_bridge.front.backend import Backend, BackendError, Headers, Via
from mcp_bridge.front.messages import Request
from mcp_bridge.front.rules import Refusal
from mcp_bridge.upstreams.mirrors import HEADER_MISMATCH, ParamMirrors, Path, param_headers

__all__ = ["ParamHeaders", "flaw"]

_PREFIX: Final = "mcp-param-"
_OWN: Final = "io.modelcontextprotocol/"
_MAX_OWNERS: Final = 1000
_MAX_PAGES: Final = 20
_LEARN_S: Final = 10.0
_DECIMAL: Final = re.compile(r"-?[0-9]{1,64}(\.[0-9]{1,64})?")


class ParamHeaders:
    """Of one front; what is known is kept for each owner of the backend, who may see other tools than the next.

    Without `asks` it goes by the lists that pass by, and nothing else.
    """

    def __init__(self, *, asks: bool = True) -> None:
        self._asks = asks
        self._mirrors: dict[str, ParamMirrors] = {}

    async def check(self, backend: Backend, request: Request, via: Via) -> Refusal | None:
        """Refuses a call whose headers are not what its arguments say. Without a list to go by, nothing is refused:
        then the tool cannot be called either."""
        if request.method != "tools/call" or not (request.params.get("arguments") or _carries_any(via.headers)):
            return None
        mirrors = self._of(backend.owner(via))
        known = mirrors.of(request.name)
        if not self._asks:
            return flaw(known, request, via.headers) if known is not None else None
        if known is not None and flaw(known, request, via.headers) is None:
            return None
        async with mirrors.learning:
            if mirrors.of(request.name) is known:  # nobody asked again meanwhile
                mirrors.forget()
                await _ask_for_tools(backend, request, via, mirrors)
        return flaw(mirrors.of(request.name) or {}, request, via.headers)

    def learn(self, owner: str, request: Request, response: bytes) -> None:
        """Take the answer to a `tools/list` that passes by."""
        with contextlib.suppress(wire.NotJson):
            result = bytes(wire.read_envelope(response).result)
            self._of(owner).observe(result, first_page="cursor" not in request.params)

    def _of(self, owner: str) -> ParamMirrors:
        if owner not in self._mirrors and len(self._mirrors) >= _MAX_OWNERS:
            del self._mirrors[next(iter(self._mirrors))]
        return self._mirrors.setdefault(owner, ParamMirrors())


async def _ask_for_tools(backend: Backend, request: Request, via: Via, mirrors: ParamMirrors) -> None:
    """As the caller would. What fails here fails again in the call, which tells the caller."""
    meta = wire.object_of(bytes(wire.object_of(request.params_json)["_meta"]))
    own = wire.object_text({key: value for key, value in meta.items() if key.startswith(_OWN)})
    params: dict[str, bytes] = {"_meta": own}
    with contextlib.suppress(BackendError, TimeoutError, wire.NotJson):
        async with asyncio.timeout(_LEARN_S):
            for number in range(_MAX_PAGES):
                answer = await _list(backend, wire.with_params(b"", params), request, via)
                cursor = mirrors.observe(bytes(wire.read_envelope(answer).result), first_page=number == 0)
                if cursor is None:
                    break
                params["cursor"] = cursor
    mirrors.settle()


async def _list(backend: Backend, params: bytes, request: Request, via: Via) -> bytes:
    asked = Request("tools/list", "", b'"tools"', params, {}, request.meta, request.declared)
    async with aclosing(backend.request(asked, via, streams=False)) as answers:
        async for answer in answers:
            if answer.is_response:
                return answer.message
    raise BackendError("the list of tools did not come")


def flaw(mirrored: Mapping[Path, str], request: Request, headers: Headers) -> Refusal | None:
    """The first header of a call that is missing, stands twice, or is not what the argument says. Pure."""
    expected = param_headers(mirrored, request.params_json)
    for path, token in mirrored.items():
        name = _PREFIX + token.lower()
        sent, wanted = values(headers, name), expected.get(name)
        argument = ".".join(path)
        if len(sent) > 1:
            return _mismatch(f"the Mcp-Param-{token} header stands more than once")
        if sent and wanted is None:
            return _mismatch(f"the Mcp-Param-{token} header stands for {argument!r}, which is not in the arguments")
        if wanted is not None and not sent:
            return _mismatch(f"the Mcp-Param-{token} header is missing: it must say what {argument!r} says")
        if sent and not _agree(rules.decode_mirror(sent[0]), rules.decode_mirror(wanted), _at(request.params, path)):
            return _mismatch(f"the Mcp-Param-{token} header is not what {argument!r} says")
    return None


def _agree(sent: str | None, wanted: str | None, value: Any) -> bool:
    """Numbers agree as numbers: `42` and `42.0` are one."""
    if sent is None or wanted is None:
        return False
    if sent == wanted:
        return True
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    both = _DECIMAL.fullmatch(sent) and _DECIMAL.fullmatch(wanted)
    return bool(is_number and both and Decimal(sent) == Decimal(wanted))


def _at(params: Mapping[str, Any], path: Path) -> Any:
    node: Any = params.get("arguments")
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _carries_any(headers: Headers) -> bool:
    return any(name.startswith(_PREFIX) for name, _ in headers)


def _mismatch(sentence: str) -> Refusal:
    return Refusal(400, HEADER_MISMATCH, sentence)
