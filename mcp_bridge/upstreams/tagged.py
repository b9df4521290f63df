"""Requests of several MCP servers to one client, told apart by their ids."""

import msgspec

from mcp_bridge import wire
from mcp_bridge.exchange import Outbox

__all__ = ["Tagged", "untag"]


class Tagged(Outbox):
    """Passes messages on to `parent`; the id of a server's own request becomes the string `server:id`."""

    def __init__(self, parent: Outbox, server: str) -> None:
        super().__init__(0)
        self._parent = parent
        self._server = server

    def offer(self, message: bytes) -> bool:
        taken = self._parent.offer(self._tag(message))
        self.overflowed = self._parent.overflowed
        return taken

    async def put(self, message: bytes) -> None:
        await self._parent.put(self._tag(message))

    def close(self) -> None:
        """The others go on."""

    def _tag(self, message: bytes) -> bytes:
        try:
            envelope = wire.read_envelope(message)
            if bytes(envelope.id):
                return wire.request(envelope.method, self._name(bytes(envelope.id)), bytes(envelope.params))
            if envelope.method == "notifications/cancelled":
                params = bytes(envelope.params)
                named = self._name(bytes(wire.object_of(params)["requestId"]))
                return wire.notification(envelope.method, wire.with_params(params, {"requestId": named}))
        except (wire.NotJson, KeyError):
            pass
        return message

    def _name(self, id_json: bytes) -> bytes:
        return msgspec.json.encode(f"{self._server}:{id_json.decode()}")


def untag(id_json: bytes) -> tuple[str, bytes] | None:
    """Server and its own id; None for an id that is not one of ours."""
    try:
        server, colon, own = msgspec.json.decode(id_json, type=str).partition(":")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return (server, own.encode()) if colon else None
