"""Calls that wait in the bridge for their client to come back with what the server asked for."""

import asyncio
import contextlib
import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from msgspec import Raw

from mcp_bridge.eras.calls import Call
from mcp_bridge.eras.link import Link
from mcp_bridge.errors import overloaded

__all__ = ["Parked", "Parking", "fingerprint"]


@dataclass(frozen=True, slots=True)
class Parked:
    """`call` is None where the server wants the whole request again, once the user has been to `urls`."""

    owner: str
    fingerprint: bytes
    link: Link
    call: Call | None
    urls: frozenset[str] = frozenset()


class Parking:
    """At most `most` calls, a quarter of them for one owner, each for `wait_s` seconds and to be taken once.

    A state has 192 random bits and says nothing; only the owner of the call can use it, and only for
    the same request (2026-07-28, "Server Requirements", 4 and 5).
    """

    def __init__(self, most: int, wait_s: float, on_expiry: Callable[[Parked], None]) -> None:
        self._most = most
        self._most_per_owner = max(1, most // 4)
        self._wait_s = wait_s
        self._on_expiry = on_expiry
        self._places: dict[str, tuple[Parked, asyncio.TimerHandle]] = {}
        self._owners: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def put(self, one: Parked) -> str:
        """The state to come back with; raises `HopError` where there is no room."""
        if len(self._places) >= self._most or self._owners[one.owner] >= self._most_per_owner:
            raise overloaded("too many calls wait for their clients' input; answer or drop some")
        state = secrets.token_urlsafe(24)
        timer = asyncio.get_running_loop().call_later(self._wait_s, self._expire, state)
        self._places[state] = one, timer
        self._owners[one.owner] += 1
        return state

    def find(self, state: str, owner: str, print_: bytes) -> Parked | None:
        """The call of this state, if it is this owner's and this request's; it stays."""
        place = self._places.get(state)
        if place is None or place[0].owner != owner or place[0].fingerprint != print_:
            return None
        return place[0]

    def take(self, state: str) -> None:
        """Use it up."""
        one, timer = self._places.pop(state)
        timer.cancel()
        self._owners[one.owner] -= 1
        if not self._owners[one.owner]:
            del self._owners[one.owner]

    def clear(self) -> None:
        for state in list(self._places):
            self.take(state)

    def _expire(self, state: str) -> None:
        one, _ = self._places[state]
        self.take(state)
        self._on_expiry(one)


def fingerprint(method: str, members: Mapping[str, Raw]) -> bytes:
    """What makes a retry the same request: method and params, save those that a retry changes."""
    same = {key: value for key, value in members.items() if key not in ("_meta", "inputResponses", "requestState")}
    text = msgspec.json.encode(same)
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Else it holds what only its own text can tell, such as 1e400: then the retry has to be written alike.
        text = msgspec.json.encode(msgspec.json.decode(text), order="sorted")
    return hashlib.sha256(method.encode() + b"\n" + text).digest()
