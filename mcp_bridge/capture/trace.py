"""Which chain of calls a request belongs to: W3C trace context, a correlation id and a count of hops.

Clients and the bridge read and write it: as gRPC metadata, as members of
`params._meta` (2026-07-28 and SEP-414 keep the bare names `traceparent`,
`tracestate` and `baggage` there for this) and as HTTP headers to upstreams.
Anybody can claim anything here: it is for following calls, never for
authorization. Malformed values are replaced, as W3C Trace Context asks.
Pure but for random ids and the context variable.
"""

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

__all__ = [
    "CORRELATION",
    "CORRELATION_META",
    "TRACEPARENT",
    "TRACESTATE",
    "Trace",
    "continuing",
    "current",
    "entered",
    "headers_here",
    "new",
    "read",
    "sent_with",
    "with_trace",
    "within",
    "write_meta",
]

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
CORRELATION: Final = "x-correlation-id"
"""Header of gRPC and HTTP."""
CORRELATION_META: Final = "secure-mcp-grpc/correlationId"
"""Key in `_meta`; MCP asks for a prefix on keys that are not its own."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_CORRELATION = re.compile(r"[A-Za-z0-9._-]{1,64}")
_STATE = re.compile(r"[\x20-\x7e]{0,512}")
_MEMBER: Final = "smg"
"""Our key in tracestate: `smg=HOPS;CORRELATION`. Whoever follows W3C carries it along, knowing nothing of us."""
_MEMBER_VALUE = re.compile(r"([0-9]{1,4});([A-Za-z0-9._-]{0,64})")
_MAX_HOPS: Final = 9999
_MAX_MEMBERS: Final = 32
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class Trace(msgspec.Struct, frozen=True, gc=False):
    """One span of a trace, as it is known where it happens; ids are lower-case hex. Made while a request waits."""

    trace_id: str
    span_id: str
    parent_span_id: str = ""
    """Empty where the trace began here."""
    flags: str = "01"
    correlation_id: str = ""
    """Chosen by whoever began; the trace id where nobody chose."""
    hops: int = 0
    """How many bridges the chain went through, this one included."""
    others: str = ""
    """Members of tracestate that are not ours."""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    @property
    def tracestate(self) -> str:
        chosen = self.correlation_id if self.correlation_id != self.trace_id else ""
        ours = f"{_MEMBER}={self.hops};{chosen}"
        return f"{ours},{self.others}" if self.others else ours

    @property
    def is_sampled(self) -> bool:
        return bool(int(self.flags, 16) & 1)

    def headers(self) -> dict[str, str]:
        """The same in gRPC metadata and in HTTP."""
        return {TRACEPARENT: self.traceparent, TRACESTATE: self.tracestate, CORRELATION: self.correlation_id}

    def child(self, *, hops: int = 0) -> "Trace":
        """A span below this one, `hops` bridges further."""
        return Trace(
            self.trace_id,
            _new_id(64),
            self.span_id,
            self.flags,
            self.correlation_id,
            min(self.hops + hops, _MAX_HOPS),
            self.others,
        )


def _new_id(bits: int) -> str:
    """Not zero, which would be no id. Nothing rests on nobody guessing it."""
    return f"{_random.getrandbits(bits) or 1:0{bits // 4}x}"


_random = random.Random()  # noqa: S311 - see above
_current: ContextVar[Trace | None] = ContextVar("mcp_trace", default=None)


def new(correlation_id: str = "") -> Trace:
    """The first span of a trace of its own."""
    trace_id = _new_id(128)
    chosen = correlation_id if _CORRELATION.fullmatch(correlation_id) else trace_id
    return Trace(trace_id, _new_id(64), correlation_id=chosen)


def read(traceparent: Any, tracestate: Any = "", correlation_id: Any = "") -> Trace | None:
    """The span that these values name; None where `traceparent` is not of its form.

    W3C Trace Context, 3.2: a higher version is read by its first four fields,
    ff and ids of zeroes only are invalid. A tracestate that is not of its
    form is dropped, and so is a correlation id.
    """
    match = _PARENT.fullmatch(traceparent) if isinstance(traceparent, str) and len(traceparent) <= 256 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (more and version == "00") or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    hops, chosen, others = _members(tracestate)
    if isinstance(correlation_id, str) and _CORRELATION.fullmatch(correlation_id):
        chosen = correlation_id
    return Trace(trace_id, span_id, "", f"{int(flags, 16) & 1:02x}", chosen or trace_id, hops, others)


def entered(above: Trace | None, correlation_id: Any = "") -> Trace:
    """The span of a bridge that a request with the span `above` came to; a trace of its own without one."""
    if above is not None:
        return above.child(hops=1)
    begun = new(correlation_id if isinstance(correlation_id, str) else "")
    return Trace(begun.trace_id, begun.span_id, correlation_id=begun.correlation_id, hops=1)


def _members(tracestate: Any) -> tuple[int, str, str]:
    """Our hops and correlation id, and the members of others, in their order."""
    if not isinstance(tracestate, str) or not tracestate or not _STATE.fullmatch(tracestate):
        return 0, "", ""
    hops, chosen, others = 0, "", []
    for member in tracestate.split(",")[:_MAX_MEMBERS]:
        key, equals, value = member.strip().partition("=")
        if key == _MEMBER and (match := _MEMBER_VALUE.fullmatch(value)):
            hops, chosen = int(match[1]), match[2]
        elif key and equals:
            others.append(f"{key}={value}")
    return hops, chosen, ",".join(others)


def write_meta(params: bytes, trace: Trace) -> bytes:
    """`params` whose `_meta` carries `trace`; every other value byte for byte as it was.

    `params` that are no object, or whose `_meta` is none, stay as they are:
    the upstream says what is wrong with them.
    """
    try:
        members = _objects.decode(params) if params else {}
        meta = _objects.decode(members["_meta"]) if "_meta" in members else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return params
    meta[TRACEPARENT] = Raw(b'"%b"' % trace.traceparent.encode())
    meta[TRACESTATE] = Raw(msgspec.json.encode(trace.tracestate))
    meta[CORRELATION_META] = Raw(b'"%b"' % trace.correlation_id.encode())
    members["_meta"] = Raw(msgspec.json.encode(meta))
    return msgspec.json.encode(members)


_objects = msgspec.json.Decoder(dict[str, Raw])


def current() -> Trace | None:
    """The span this code runs in: OpenTelemetry's where one is active, else the one of `within` or `continuing`.

    OpenTelemetry is asked only where its API is loaded already: the MCP SDK loads it.
    """
    ours = _current.get()
    theirs = _from_opentelemetry()
    if theirs is None:
        return ours
    if ours is not None and ours.trace_id == theirs.trace_id and theirs.correlation_id == theirs.trace_id:
        return replace(theirs, correlation_id=ours.correlation_id, hops=ours.hops, others=theirs.others or ours.others)
    return theirs


def sent_with(meta: Mapping[str, Any]) -> Trace:
    """The span a client sends a request from: the one that its `_meta` names, else the current, else a new one."""
    here = current()
    named = read(meta.get(TRACEPARENT), meta.get(TRACESTATE), meta.get(CORRELATION_META))
    if named is None:
        chosen = meta.get(CORRELATION_META)
        return here or new(chosen if isinstance(chosen, str) else "")
    if here is not None and here.trace_id == named.trace_id and named.correlation_id == named.trace_id:
        return replace(named, correlation_id=here.correlation_id, hops=max(named.hops, here.hops))
    return named


def with_trace(params: Mapping[str, Any], trace: Trace) -> dict[str, Any]:
    """`params` whose `_meta` carries `trace`; a `_meta` that is no object stays, for the server to refuse."""
    meta = params.get("_meta") or {}
    if not isinstance(meta, Mapping):
        return dict(params)
    told = {TRACEPARENT: trace.traceparent, TRACESTATE: trace.tracestate, CORRELATION_META: trace.correlation_id}
    return {**params, "_meta": {**meta, **told}}


def headers_here() -> tuple[tuple[str, str], ...]:
    """gRPC metadata of the span that `within` or `continuing` set."""
    trace = _current.get()
    return tuple(trace.headers().items()) if trace is not None else ()


def _from_opentelemetry() -> Trace | None:
    import sys

    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    span = api.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    state = span.trace_state.to_header() if span.trace_state else ""
    return read(f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}", state)


@contextmanager
def within(trace: Trace | None) -> Iterator[None]:
    """Calls made inside belong below `trace`; to no trace for None."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def continuing(meta: Mapping[str, Any] | None = None, *, correlation_id: str = "") -> Iterator[Trace]:
    """Calls made inside continue the chain of the request whose `_meta` is `meta`, or begin one.

    For tools that call other tools, where neither OpenTelemetry nor the bridge's own process carries the context.
    """
    found = read((meta or {}).get(TRACEPARENT), (meta or {}).get(TRACESTATE), (meta or {}).get(CORRELATION_META))
    trace = found or new(correlation_id)
    with within(trace):
        yield trace
