"""Tells the other sidecars that this one loaded a policy, and hears it from them: a Casbin watcher over Redis.

An announcement makes others look at their own files; nothing of a policy
travels. A lost one costs nothing but time, since everyone also looks at its
files several times a second.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec
from casbin.persist.watcher import Watcher

from authz_service.policy import Policy
from authz_service.redis_link import RedisLink
from secure_mcp_grpc import logs

__all__ = ["CHANNEL", "PolicyAnnouncer"]

logger = logging.getLogger(__name__)

CHANNEL: Final = "mcp:policy"


class _Announcement(msgspec.Struct, frozen=True):
    node: str
    instance: str
    version: str


_decoder = msgspec.json.Decoder(_Announcement)


class PolicyAnnouncer(Watcher):  # type: ignore[misc] # casbin has no types
    """`version` says which policy is in force here. Casbin's contract: `set_update_callback`, `update`, `close`."""

    def __init__(self, link: RedisLink, version: Callable[[], str]) -> None:
        self._link = link
        self._version = version
        self._callback: Callable[..., Any] | None = None
        link.subscribe(CHANNEL, self._receive)

    def connect(self, look: Callable[[], None], on_loaded: list[Callable[[Policy], None]]) -> None:
        """Have `look` called when others announce, and announce what is loaded here."""
        self.set_update_callback(look)
        on_loaded.append(lambda _: self._announce())

    def set_update_callback(self, func: Callable[..., Any]) -> None:
        """`func` is called without arguments when another sidecar has loaded another policy."""
        self._callback = func

    def update(self) -> bool:
        """Announce the policy in force; True as Casbin wants it, also where Redis is lost and nobody hears."""
        self._announce()
        return True

    def close(self) -> None:
        self._callback = None

    def _announce(self) -> None:
        announcement = _Announcement(self._link.node, self._link.instance, self._version())
        self._link.publish(CHANNEL, msgspec.json.encode(announcement))

    def _receive(self, message: bytes) -> None:
        try:
            announcement = _decoder.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError):
            logs.event(logger, logging.WARNING, "policy_announcement_unreadable", bytes=len(message))
            return
        if announcement.instance == self._link.instance or announcement.version == self._version():
            return
        logs.event(
            logger, logging.INFO, "policy_announced", node=announcement.node[:128], version=announcement.version[:64]
        )
        if self._callback is not None:
            self._callback()
