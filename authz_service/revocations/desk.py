"""Where people and programs change revocations: in Redis, or in the file of one sidecar."""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

from authz_service.redis_link import FAILURES, SLOW_TIMEOUT_S, connect
from authz_service.revocations import shared
from authz_service.revocations.entry import Damaged, Entry, canonical, merged
from authz_service.revocations.file import RevocationFile
from secure_mcp_grpc.errors import UserError

__all__ = ["Desk", "HereOnly", "NothingToLift"]


class HereOnly(Exception):
    """Redis did not answer; the change is in the file of this sidecar alone."""


class NothingToLift(Exception):
    """There is no such revocation."""


class Desk:
    """Reads and writes where the sidecar of `path` does; `redis_url` is empty without Redis.

    All methods raise `Damaged` for contents that cannot be read, and
    `UserError` for what the caller can mend.
    """

    def __init__(self, path: Path, redis_url: str) -> None:
        self._file = RevocationFile(path)
        self._url = redis_url

    @property
    def shared(self) -> bool:
        """Whether changes go to Redis, and from there to every sidecar."""
        return bool(self._url)

    @property
    def place(self) -> str:
        """Where a change goes, for people."""
        return "in Redis, for every sidecar that shares it" if self._url else f"in {self._file.path}, for its sidecar"

    async def read(self) -> dict[str, Entry]:
        """All entries by id, the lifted ones too."""
        known = self._read_file()
        if not self._url:
            return known
        found = await self._with_redis(_pull)
        if found is None:
            raise UserError("Redis does not answer; set REDIS_URL empty to see what this sidecar's file holds")
        return {**known, **merged(known, found)}

    async def write(self, **what: Any) -> Entry:
        """Make a new version of an entry, with the fields of `Entry` in `what` but for `at_us`.

        Raises `NothingToLift`, and `HereOnly` (with the entry) if Redis is lost but this sidecar was told.
        """
        wanted = Entry(**{**what, "value": canonical(what["kind"], what["value"])}, at_us=1)
        if any(len(text) > 500 for text in (wanted.reason, wanted.issuer)):
            raise UserError("reason and issuer are limited to 500 characters")
        if wanted.issuer and wanted.kind != "token":
            raise UserError("--issuer is for tokens")
        if not self._url:
            return self._write_file(wanted)

        async def change(client: Redis) -> Entry:
            known = {entry.id: entry for entry in (await shared.pull(client))[0]}
            entry = _newest(known | merged(known, self._read_file().values()), wanted)
            await shared.push(client, [entry])
            return entry

        entry: Entry | None = await self._with_redis(change)
        if entry is not None:
            return entry
        if not self._file.exists:
            raise UserError("Redis does not answer, and no sidecar runs from this directory; nothing was changed")
        raise HereOnly(self._write_file(wanted))

    async def _with_redis(self, work: Callable[[Redis], Awaitable[Any]]) -> Any:
        """What `work` returns; None if Redis does not answer."""
        client = connect(self._url, SLOW_TIMEOUT_S)
        try:
            return await work(client)
        except Damaged:
            raise
        except FAILURES:
            return None
        finally:
            await client.aclose()

    def _read_file(self) -> dict[str, Entry]:
        try:
            return self._file.read()
        except OSError as error:
            raise UserError(f"{self._file.path} cannot be read: {error.strerror}") from None

    def _write_file(self, wanted: Entry) -> Entry:
        made: list[Entry] = []

        def change(known: Mapping[str, Entry]) -> list[Entry]:
            made.append(_newest(known, wanted))
            return made

        try:
            self._file.update(change, _now_us())
        except OSError as error:
            raise UserError(f"{self._file.path} cannot be written: {error.strerror or error}") from None
        return made[0]


async def _pull(client: Redis) -> list[Entry]:
    entries, damaged = await shared.pull(client)
    if damaged:
        raise Damaged(damaged[0])
    return entries


def _newest(known: Mapping[str, Entry], wanted: Entry) -> Entry:
    """`wanted` as the newest version, whatever the clocks of those before it said."""
    before = known.get(wanted.id)
    now_us = _now_us()
    if wanted.lifted and (before is None or not before.in_force(now_us)):
        raise NothingToLift(str(wanted))
    at_us = max(now_us, before.at_us + 1 if before else 0)
    until_us = before.until_us if wanted.lifted and before else wanted.until_us
    return msgspec.structs.replace(wanted, at_us=at_us, until_us=until_us)


def _now_us() -> int:
    return time.time_ns() // 1000
