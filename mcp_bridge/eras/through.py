"""An outbox that keeps nothing: each message is looked at, perhaps changed, and goes on at once."""

from collections.abc import Callable

from mcp_bridge.exchange import Outbox

__all__ = ["Through"]

Translate = Callable[[bytes], tuple[Outbox, bytes] | None]


class Through(Outbox):
    """`translate` says where a message goes and as what; None keeps it from going on."""

    def __init__(self, translate: Translate, on_close: Callable[[], None] = lambda: None) -> None:
        super().__init__(0)
        self._translate = translate
        self._on_close = on_close

    def offer(self, message: bytes) -> bool:
        onward = self._translate(message)
        if onward is None:
            return True
        outbox, changed = onward
        taken = outbox.offer(changed)
        self.overflowed = outbox.overflowed
        return taken

    async def put(self, message: bytes) -> None:
        onward = self._translate(message)
        if onward is not None:
            outbox, changed = onward
            await outbox.put(changed)
            self.overflowed = outbox.overflowed

    def close(self) -> None:
        super().close()
        self._on_close()
