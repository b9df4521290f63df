"""The gRPC channel of a client: opened from an identity's files, and again when they were replaced."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from mcp_bridge.client.identity import Identity, verify_server
from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["Address", "Channels", "Stubs"]

_LOOPBACK = ("127.0.0.1:", "localhost:", "[::1]:", "unix:")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to and as whom. `factory` makes the channel instead, for tests and special wiring."""

    target: str
    identity: Identity | None
    server_id: str | None
    server_name: str | None
    interceptors: Sequence[Any]
    max_answer_bytes: int
    factory: Callable[[], grpc.aio.Channel] | None = None


class Stubs:
    """The RPCs of McpTransport on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        answer = pb.Response.FromString
        self.call = channel.unary_unary(f"{TRANSPORT}Call", pb.Request.SerializeToString, answer)
        self.stream = channel.unary_stream(f"{TRANSPORT}Stream", pb.Request.SerializeToString, answer)
        self.listen = channel.unary_stream(f"{TRANSPORT}Listen", pb.ListenRequest.SerializeToString, answer)
        self.notify = channel.unary_unary(f"{TRANSPORT}Notify", pb.Notification.SerializeToString, pb.Ack.FromString)
        self.reply = channel.unary_unary(f"{TRANSPORT}Reply", pb.ReplyRequest.SerializeToString, pb.Ack.FromString)
        self.end_session = channel.unary_unary(
            f"{TRANSPORT}EndSession", pb.EndSessionRequest.SerializeToString, pb.Ack.FromString
        )


class Channels:
    """The channel in use, and those before it that may still have calls on them."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._version: tuple[int, ...] = ()
        self._open: list[grpc.aio.Channel] = []
        self._stubs: Stubs | None = None

    @property
    def stubs(self) -> Stubs:
        if self._stubs is None:
            raise RuntimeError("the channel is not open")
        return self._stubs

    async def open(self) -> None:
        """Read the identity and make a channel; raises `UserError` for files, `ConnectionError` for a wrong server."""
        address = self._address
        if address.factory is not None:
            channel = address.factory()
        elif address.identity is None:
            if not address.target.startswith(_LOOPBACK):
                raise UserError(f"without an identity only loopback addresses are allowed, not {address.target}")
            channel = grpc.aio.insecure_channel(address.target, self._options(), interceptors=address.interceptors)
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
                await verify_server(address.target, identity, address.server_id, address.server_name)
            except TimeoutError:
                raise ConnectionError(f"the server at {address.target} did not answer in time") from None
            except ssl.SSLError as error:
                raise ConnectionError(f"the server at {address.target} is not trusted: {error.reason}") from None
        self._version = version
        return grpc.aio.secure_channel(address.target, credentials, self._options(), interceptors=address.interceptors)

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
        ]
        if self._address.server_name:
            options.append(("grpc.ssl_target_name_override", self._address.server_name))
        return options
