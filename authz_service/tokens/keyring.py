"""An issuer's keys in force: kept fresh in the background, and fetched out of turn for a key nobody has seen yet.

Looking a key up never waits. What may have to be waited for is one fetch,
which all who wait share; it is made at most once in `unknown_s` seconds, so a
flood of invented names of keys costs the issuer nothing. While the issuer is
away, the last good keys stay in force for `max_age_s` seconds.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from authz_service.tokens.fetch import FetchError
from authz_service.tokens.keys import Key, KeysError, KeySet
from authz_service.tokens.metrics import TokenMetrics
from authz_service.tokens.sources import Source
from secure_mcp_grpc import logs

__all__ = ["KeyRing"]

logger = logging.getLogger(__name__)

_MAX_WAITING: Final = 64
"""Requests that wait for one fetch; more are refused at once."""
_MAX_ABSENT: Final = 1024
_ABSENT_S: Final = 60.0
"""How long a `kid` that a fetch did not bring causes no other fetch."""
_FIRST_RETRY_S: Final = 0.5
_LONGEST_RETRY_S: Final = 30.0


class KeyRing:
    """The keys of the issuer `name`. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        name: str,
        source: Source,
        metrics: TokenMetrics,
        *,
        refresh_s: float,
        max_age_s: float,
        unknown_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.version = 0
        """Changes with the keys: what was verified under another version has to be verified again."""
        self._source = source
        self._metrics = metrics
        self._refresh_s = refresh_s
        self._max_age_s = max_age_s
        self._unknown_s = unknown_s
        self._clock = clock
        self._keys: KeySet | None = None
        self._read_at = 0.0
        self._asked_at = float("-inf")
        self._absent: dict[str, float] = {}
        self._fetching: asyncio.Task[bool] | None = None
        self._waiting = 0
        self._problem = ""

    @property
    def usable(self) -> bool:
        """Whether there are keys, and they are not too old to be believed."""
        return self._keys is not None and self._clock() - self._read_at <= self._max_age_s

    @property
    def complete(self) -> bool:
        """Whether these are all the issuer's keys, as far as the last fetch knows: it did not fail."""
        return self.usable and not self._problem

    @property
    def age_s(self) -> float:
        """Since the keys were last had from the issuer; infinite where they never were."""
        return self._clock() - self._read_at if self._keys is not None else float("inf")

    def put(self, keys: KeySet) -> None:
        """Put `keys` in force, as read just now."""
        self._read_at = self._clock()
        if keys == self._keys:
            return
        for problem in keys.ignored:
            logs.event(logger, logging.WARNING, "key_ignored", issuer=self.name, problem=problem)
        logs.event(logger, logging.INFO, "keys_loaded", issuer=self.name, keys=len(keys.keys))
        self._keys = keys
        self.version += 1
        self._absent.clear()

    def find(self, kid: str | None, alg: str) -> tuple[Key, ...]:
        """The keys that may have signed; none where `usable` is false."""
        if self._keys is None or not self.usable:
            return ()
        return self._keys.fitting(alg) if kid is None else self._keys.named(kid)

    def may_fetch(self, kid: str | None) -> bool:
        """Whether it is worth waiting for a fetch: one is under way, or one is allowed now."""
        if self._waiting >= _MAX_WAITING:
            return False
        if self._fetching is not None:
            return True
        now = self._clock()
        if now - self._asked_at < self._unknown_s:
            return False
        return not self.usable or (kid is not None and self._absent.get(kid, float("-inf")) <= now)

    async def fetch(self, kid: str | None) -> None:
        """Wait for the one fetch under way, or start it. `may_fetch` has just said yes."""
        if self._fetching is None:
            self._asked_at = self._clock()
            self._fetching = asyncio.create_task(self._read(), name=f"keys of {self.name}")
        self._waiting += 1
        try:
            succeeded = await asyncio.shield(self._fetching)
        finally:
            self._waiting -= 1
        if succeeded and kid is not None and not self.find(kid, ""):
            self._note_absent(kid)

    async def run(self) -> None:
        """Keep the keys fresh until cancelled."""
        retry_s = _FIRST_RETRY_S
        while True:
            if self._fetching is None:
                self._fetching = asyncio.create_task(self._read(), name=f"keys of {self.name}")
            if await asyncio.shield(self._fetching):
                retry_s = _FIRST_RETRY_S
                await asyncio.sleep(self._refresh_s)
            else:
                await asyncio.sleep(min(retry_s, self._refresh_s))
                retry_s = min(retry_s * 2, _LONGEST_RETRY_S)

    async def close(self) -> None:
        """End the fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def _read(self) -> bool:
        """Whether the source gave keys."""
        try:
            keys = await self._source.read()
        except (FetchError, KeysError) as error:
            self._failed(str(error))
            return False
        finally:
            self._fetching = None
        self._metrics.fetched(self.name, ok=True)
        self._problem = ""
        self.put(keys)
        return True

    def _failed(self, problem: str) -> None:
        self._metrics.fetched(self.name, ok=False)
        if problem != self._problem:
            logs.event(logger, logging.WARNING, "keys_not_fetched", issuer=self.name, problem=problem)
        self._problem = problem

    def _note_absent(self, kid: str) -> None:
        while len(self._absent) >= _MAX_ABSENT:
            del self._absent[next(iter(self._absent))]
        self._absent[kid] = self._clock() + _ABSENT_S
