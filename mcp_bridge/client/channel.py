"""The gRPC channels of a client: one for each address, opened from an identity's files, and again when those changed.

Between whatever sends requests (the SDK transport, `secure-mcp-grpc connect`)
and the sidecars. Requests go round over the addresses that answer; a session
of the handshake era stays where it was opened, for its state is there.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from mcp_bridge.client.identity import Identity, verify_server
from secure_mcp_grpc import logs
from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["Address", "Channels", "Endpoint", "Stubs"]

logger = logging.getLogger(__name__)

_LOOPBACK: Final = ("127.0.0.1:", "localhost:", "[::1]:", "unix:")
_CONNECT_S: Final = 5.0
_AVOID_S: Final = 1.0
"""How long an address that just failed gets no new request while another one answers."""
_MAX_BOUND: Final = 10_000
_READY, _FAILING = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE


@dataclass(frozen=True, slots=True)
class Address:
    """Where to and as whom. `factory` makes the channel instead, for tests and special wiring.

    `target` is one `host:port`, or several with commas between them.
    """

    target: str
    identity: Identity | None
    server_id: str | None = None
    server_name: str | None = None
    interceptors: Sequence[Any] = ()
    max_answer_bytes: int = 16 * 1024 * 1024
    factory: Callable[[], grpc.aio.Channel] | None = None

    @property
    def targets(self) -> list[str]:
        """Raises `UserError` where there is none."""
        targets = [one for part in self.target.split(",") if (one := part.strip())]
        if not targets:
            raise UserError("name the sidecar: HOST:PORT, or several with commas between them")
        return targets


class Stubs:
    """The RPCs of McpTransport on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        answer = pb.Response.FromString
        self.call = channel.unary_unary(f"{TRANSPORT}Call", pb.Request.SerializeToString, answer)
        self.stream = channel.unary_stream(f"{TRANSPORT}Stream", pb.Request.SerializeToString, answer)
        self.listen = channel.unary_stream(f"{TRANSPORT}Listen", pb.ListenRequest.SerializeToString, answer)
        self.session = channel.stream_stream(f"{TRANSPORT}Session", pb.ClientFrame.SerializeToString, answer)
        self.notify = channel.unary_unary(f"{TRANSPORT}Notify", pb.Notification.SerializeToString, pb.Ack.FromString)
        self.reply = channel.unary_unary(f"{TRANSPORT}Reply", pb.ReplyRequest.SerializeToString, pb.Ack.FromString)
        self.end_session = channel.unary_unary(
            f"{TRANSPORT}EndSession", pb.EndSessionRequest.SerializeToString, pb.Ack.FromString
        )


class Endpoint:
    """One address: the channel in use, and those before it that may still have calls on them."""

    def __init__(self, target: str, address: Address) -> None:
        self.target = target
        self.avoid_until = 0.0
        self._address = address
        self._version: tuple[int, ...] = ()
        self._open: list[grpc.aio.Channel] = []
        self._stubs: Stubs | None = None

    @property
    def stubs(self) -> Stubs:
        if self._stubs is None:
            raise RuntimeError("the channel is not open")
        return self._stubs

    @property
    def is_open(self) -> bool:
        return self._stubs is not None

    def state(self) -> grpc.ChannelConnectivity:
        """Of the connection; begins to connect where that was not tried yet."""
        return self.stubs.channel.get_state(try_to_connect=True)

    async def open(self) -> None:
        """Read the identity and make a channel; raises `UserError` for files, `ConnectionError` for a wrong server."""
        address = self._address
        if address.factory is not None:
            channel = address.factory()
        elif address.identity is None:
            if not self.target.startswith(_LOOPBACK):
                raise UserError(f"without an identity only loopback addresses are allowed, not {self.target}")
            channel = grpc.aio.insecure_channel(self.target, self._options(), interceptors=address.interceptors)
        else:
            channel = await self._secure(address.identity)
        self._open.append(channel)
        self._stubs = Stubs(channel)

    async def renew(self) -> None:
        """After a connection failed: a new channel if the identity's files are no longer those it was made from."""
        identity = self._address.identity
        if identity is None or self._address.factory is not None:
            return
        try:
            if identity.version() != self._version:
                await self.open()
        except (OSError, UserError):
            return  # being replaced at this moment; the next failure tries again

    async def close(self) -> None:
        for channel in self._open:
            await channel.close(None)

    async def _secure(self, identity: Identity) -> grpc.aio.Channel:
        address = self._address
        try:
            version = identity.version()
            credentials = identity.credentials()
        except OSError as error:
            raise UserError(f"identity file {error.filename} cannot be read: {error.strerror}") from None
        if address.server_id is not None:
            try:
                await verify_server(self.target, identity, address.server_id, address.server_name)
            except TimeoutError:
                raise ConnectionError(f"the server at {self.target} did not answer in time") from None
            except ssl.SSLError as error:
                raise ConnectionError(f"the server at {self.target} is not trusted: {error.reason}") from None
        self._version = version
        return grpc.aio.secure_channel(self.target, credentials, self._options(), interceptors=address.interceptors)

    def _options(self) -> list[tuple[str, Any]]:
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", self._address.max_answer_bytes + 64 * 1024),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 5000),  # also how long one attempt to connect may take
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),  # a Listen may be silent for hours
        ]
        if self._address.server_name:
            options.append(("grpc.ssl_target_name_override", self._address.server_name))
        return options


class Channels:
    """The addresses of one client."""

    def __init__(self, address: Address) -> None:
        self._endpoints = [Endpoint(target, address) for target in address.targets]
        self._next = 0
        self._bound: dict[str, Endpoint] = {}
        self._opening: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open what can be opened; raises as `Endpoint.open` does where nothing can.

        One of several addresses that is away or not who it should be gets no
        request; it is looked at again later.
        """
        outcomes = await asyncio.gather(*(one.open() for one in self._endpoints), return_exceptions=True)
        errors = [outcome for outcome in outcomes if outcome is not None]
        for error in errors:
            if not isinstance(error, OSError) or len(errors) == len(self._endpoints):
                raise error
        for one in self._endpoints:
            if not one.is_open:
                self._avoid(one)

    async def pick(self, session_id: str = "") -> Endpoint:
        """Where a request goes: where its session is, else the next address in turn that answers."""
        if (home := self._bound.get(session_id)) is not None:
            return home
        if len(self._endpoints) == 1:
            return self._endpoints[0]
        self._reopen()
        try:
            async with asyncio.timeout(_CONNECT_S):
                while True:
                    turn = self._in_turn()
                    states = {one: one.state() for one in turn}
                    ready = [one for one in turn if states[one] is _READY]
                    if ready or all(state is _FAILING for state in states.values()):
                        return self._took(ready or turn)
                    await _change(states)
        except TimeoutError:
            return self._took(self._in_turn())

    def bind(self, session_id: str, endpoint: Endpoint) -> None:
        """The session was opened there."""
        if len(self._endpoints) == 1 or not session_id:
            return
        if len(self._bound) >= _MAX_BOUND:
            del self._bound[next(iter(self._bound))]
        self._bound[session_id] = endpoint

    def release(self, session_id: str) -> None:
        self._bound.pop(session_id, None)

    async def failed(self, endpoint: Endpoint) -> None:
        """A request to `endpoint` came back as UNAVAILABLE."""
        self._avoid(endpoint)
        await endpoint.renew()

    async def close(self) -> None:
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for endpoint in self._endpoints:
            await endpoint.close()

    def _avoid(self, endpoint: Endpoint) -> None:
        endpoint.avoid_until = time.monotonic() + _AVOID_S

    def _in_turn(self) -> list[Endpoint]:
        """The open endpoints from the next one on; those that just failed last."""
        turn = [one for one in self._endpoints[self._next :] + self._endpoints[: self._next] if one.is_open]
        now = time.monotonic()
        good = [one for one in turn if one.avoid_until <= now]
        return good or turn

    def _took(self, candidates: Sequence[Endpoint]) -> Endpoint:
        chosen = candidates[0]
        self._next = (self._endpoints.index(chosen) + 1) % len(self._endpoints)
        return chosen

    def _reopen(self) -> None:
        """Look again, beside the requests, at what could not be opened."""
        for one in self._endpoints:
            if not one.is_open and one.avoid_until <= time.monotonic():
                self._avoid(one)
                task = asyncio.create_task(_try_to_open(one), name=f"open {one.target}")
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)


async def _try_to_open(endpoint: Endpoint) -> None:
    try:
        await endpoint.open()
    except (OSError, UserError) as error:
        logs.event(logger, logging.INFO, "address_avoided", address=endpoint.target, kind=type(error).__name__)


async def _change(states: dict[Endpoint, grpc.ChannelConnectivity]) -> None:
    """Wait until one of the connections is in another state."""
    waits = [
        asyncio.ensure_future(one.stubs.channel.wait_for_state_change(state))
        for one, state in states.items()
        if state is not _FAILING
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
