"""What this sidecar holds for revoked: in memory for the steps, kept in its file, and in step with Redis.

An entry ends by its own end or by being lifted, never by being absent: a file
that was removed is written again, a Redis that comes back empty is filled, and
what cannot be read changes nothing but the health.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from authz_service.limits_metrics import LimitsMetrics
from authz_service.revocations.entry import Damaged, Entry, merged
from authz_service.revocations.file import RevocationFile
from authz_service.revocations.in_force import InForce
from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.records import DecisionRecord, timestamp

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from authz_service.redis_link import RedisLink

__all__ = ["Revocations", "record_of"]

logger = logging.getLogger(__name__)

_LOOK_S: Final = 0.25
_MOST_LOGGED: Final = 20
_FULL_SYNC_S: Final = 5.0
"""Redis is read whole at least this often, for what changed without its version."""


class Revocations:
    """`in_force` is what the steps ask. `run` keeps it true; with a `link`, `sync` is one of its beats.

    `note` gets a journal record of every change. Raises `UserError` for a file that cannot be read: to start
    without it would revive what it names.
    """

    def __init__(
        self,
        file: RevocationFile,
        link: "RedisLink | None",
        note: Callable[[DecisionRecord], None],
        metrics: LimitsMetrics,
        *,
        refuse_without_redis: bool,
        trust_domains: Sequence[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._link = link
        self._note = note
        self._metrics = metrics
        self._refuse = refuse_without_redis
        self._trust_domains = tuple(trust_domains)
        self._clock = clock
        self._synced_version: bytes | None = None
        self._synced_at_s = 0.0
        self._problems: dict[str, str] = {}
        self._unsaved = self._unpushed = False
        try:
            self._known = self._file.read()
        except Damaged as error:
            raise UserError(f"{error}; restore it, or remove it, which revives what it revoked") from None
        except OSError as error:
            raise UserError(f"revocations_file {file.path} cannot be read: {error.strerror}") from None
        self._complete = link is None or file.exists
        self.in_force = InForce(self._known.values(), self._trust_domains)
        metrics.revocations.set(self.in_force.size)
        self._running = {name for name, entry in self._known.items() if entry.in_force(self._now_us())}
        if link is not None:
            from authz_service.revocations import shared

            link.subscribe(shared.CHANNEL, lambda _: link.poke())
            link.on_beat.append(self.sync)

    @property
    def usable(self) -> bool:
        """Whether requests may be judged by `in_force`.

        With Redis, a sidecar that never heard of any revocations must hear of them first: Redis may be away, and
        knowing nothing is not the same as nothing revoked.
        """
        return self._complete and (self._link is None or self._link.up or not self._refuse)

    @property
    def well(self) -> bool:
        """Whether everything there is can be read and kept."""
        return not self._problems

    async def run(self) -> None:
        """Look at the file and at what ended, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Take up what the file has that is new, and see that it has what we know."""
        self._end()
        with self._file_trouble():
            found = await asyncio.to_thread(self._file.changed)
            if found is not None:
                self._to_push(self._apply(found.values()))
                self._unsaved = self._unsaved or bool(merged(found, self._lasting()))
            if self._unsaved:
                self._unsaved = False
                await self._save()
            self._problem("file", "")

    async def sync(self, client: "Redis") -> None:
        """Merge with Redis, both ways, if it changed. Failures of Redis are the link's."""
        from authz_service.revocations import shared

        now_s = time.monotonic()
        try:
            version = await shared.version(client)
            if not self._is_due(version, now_s):
                return
            self._unpushed = False
            entries, damaged = await shared.pull(client)
            if missing := merged({entry.id: entry for entry in entries}, self._lasting()):
                await shared.push(client, missing.values())
            await shared.drop(client, [entry for entry in entries if entry.over(self._now_us())])
        except Damaged as error:
            self._problem("redis", str(error))
            return
        self._synced_version, self._synced_at_s = version, now_s
        self._problem("redis", damaged[0] if damaged else "")
        if self._apply(entries) or not self._complete:
            await self._persist()
        self._complete = self._complete or not damaged

    def _is_due(self, version: bytes, now_s: float) -> bool:
        """Whether Redis may hold something else than we do. Without a version it is new, or has lost its data."""
        same = bool(version) and version == self._synced_version and not self._unpushed
        return not same or now_s - self._synced_at_s >= _FULL_SYNC_S

    async def _persist(self) -> None:
        """Keep what Redis brought before it counts as known: a restart must not need Redis."""
        with self._file_trouble():
            await self._save()

    @contextmanager
    def _file_trouble(self) -> Iterator[None]:
        """What is wrong with the file changes the health alone; what could not be written waits for the next look."""
        try:
            yield
        except Damaged as error:
            self._problem("file", str(error))
        except OSError as error:
            self._unsaved = True
            self._problem("file", f"{self._file.path}: {error.strerror or error}")

    async def _save(self) -> None:
        entries, now_us = list(self._lasting()), self._now_us()
        found = await asyncio.to_thread(self._file.add, entries, now_us)
        self._to_push(self._apply(found.values()))

    def _to_push(self, news: bool) -> None:
        """Let the others hear what came from the file."""
        if news and self._link is not None:
            self._unpushed = True
            self._link.poke()

    def _lasting(self) -> Iterable[Entry]:
        now_us = self._now_us()
        return [entry for entry in self._known.values() if not entry.over(now_us)]

    def _apply(self, entries: Iterable[Entry]) -> bool:
        """Put what is new in force; returns whether anything was."""
        now_us = self._now_us()
        news = merged(self._known, (entry for entry in entries if not entry.over(now_us)))
        if not news:
            return False
        self._known = {**self._known, **news}
        self._renew()
        if len(news) > _MOST_LOGGED:
            logs.event(logger, logging.WARNING, "revocations_arrived", changes=len(news))
        for name, entry in news.items():
            self._tell(name, entry, now_us, log=len(news) <= _MOST_LOGGED)
        return True

    def _tell(self, name: str, entry: Entry, now_us: int, *, log: bool) -> None:
        before = name in self._running
        if entry.in_force(now_us):
            self._running.add(name)
            self._changed(entry, "quarantined" if entry.quarantine else "revoked", log=log)
        elif before:
            self._running.discard(name)
            change = "ended" if not entry.lifted else "released" if entry.quarantine else "unrevoked"
            self._changed(entry, change, log=log)

    def _end(self) -> None:
        """Say which entries came to their end, and forget those that are over."""
        now_us = self._now_us()
        for name in [name for name in self._running if not self._known[name].in_force(now_us)]:
            self._running.discard(name)
            self._changed(self._known[name], "ended")
        if any(entry.over(now_us) for entry in self._known.values()):
            self._known = {entry.id: entry for entry in self._lasting()}
            self._renew()
            self._unsaved = True

    def _renew(self) -> None:
        self.in_force = InForce(self._known.values(), self._trust_domains)
        self._metrics.revocations.set(self.in_force.size)

    def _changed(self, entry: Entry, change: str, *, log: bool = True) -> None:
        self._metrics.revocation_changes.labels(change).inc()
        if log:
            logs.event(logger, logging.WARNING, "revocation", change=change, kind=entry.kind, until_us=entry.until_us)
        self._note(record_of(entry, change, self._now_us()))

    def _problem(self, where: str, sentence: str) -> None:
        """`sentence` is what is wrong with `where` now; empty for nothing. Logged when it changes."""
        if self._problems.get(where, "") == sentence:
            return
        if sentence:
            self._problems[where] = sentence
            logs.event(logger, logging.WARNING, "revocations_damaged", problem=sentence)
        else:
            del self._problems[where]
            logs.event(logger, logging.INFO, "revocations_readable", where=where)
        self._metrics.revocations_damaged.set(float(bool(self._problems)))

    def _now_us(self) -> int:
        return int(self._clock() * 1e6)


def record_of(entry: Entry, change: str, now_us: int) -> DecisionRecord:
    """The journal's record of a change: `revoked`, `unrevoked`, `quarantined`, `released` or `ended`."""
    until = f" until {timestamp(entry.until_us)}" if entry.until_us else ""
    why = f": {entry.reason}" if entry.reason else ""
    by = f" (by {entry.by})" if entry.by else ""
    value = entry.value
    return DecisionRecord(
        kind="revocation",
        chain="",
        seq=0,
        ts=timestamp(now_us),
        reason=change,
        rule=f"{change} {entry}{until}{why}{by}",
        identity=value if entry.kind == "identity" else "",
        user=value if entry.kind == "user" else "",
        token_id=value if entry.kind == "token" else "",
        peer_fingerprint=value if entry.kind == "certificate" else "",
    )
