"""The revocations in Redis: a hash id → entry, a token that changes with it, and a channel that says so."""

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from authz_service.redis_link import Script
from authz_service.revocations.entry import Damaged, Entry, decode, encode

__all__ = ["CHANNEL", "HASH", "VERSION", "drop", "pull", "push", "version"]

HASH: Final = "mcp:revocations"
VERSION: Final = "mcp:revocations:version"
CHANNEL: Final = "mcp:revocations"

_AT_ONCE: Final = 500

_PUSH: Final = Script("""
local written = 0
for i = 2, #ARGV, 2 do
  local id, text = ARGV[i], ARGV[i + 1]
  local known = redis.call('HGET', KEYS[1], id)
  local newer = true
  if known then
    local readable, old = pcall(cjson.decode, known)
    if readable and type(old) == 'table' and type(old.at_us) == 'number' then
      local new = cjson.decode(text)
      if old.at_us ~= new.at_us then
        newer = new.at_us > old.at_us
      elseif (old.lifted == true) ~= (new.lifted == true) then
        newer = old.lifted == true
      else
        newer = text > known
      end
    end
  end
  if newer then
    redis.call('HSET', KEYS[1], id, text)
    written = written + 1
  end
end
if written > 0 then
  redis.call('SET', KEYS[2], ARGV[1])
  redis.call('PUBLISH', KEYS[1], ARGV[1])
end
return written
""")
"""The order is `Entry.newer_than`'s. What cannot be read gives way."""

_DROP: Final = Script("""
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 0
""")


async def version(client: Redis) -> bytes:
    """Changes whenever somebody pushed; empty before that, and after Redis lost its data. Raises `Damaged`."""
    try:
        found = await client.get(VERSION)
    except ResponseError as error:
        raise _wrong(error, VERSION) from None
    if found is not None and not isinstance(found, bytes):
        raise TypeError
    return found or b""


async def pull(client: Redis) -> tuple[list[Entry], list[str]]:
    """What Redis holds, and a sentence for each thing in it that cannot be read. Raises `Damaged` for the whole."""
    try:
        fields = await client.hgetall(HASH)
    except ResponseError as error:
        raise _wrong(error, HASH) from None
    entries, damaged = [], []
    for name, text in fields.items():
        if not isinstance(name, bytes) or not isinstance(text, bytes):
            raise TypeError
        shown = repr(name.decode(errors="replace"))
        try:
            entry = decode(text, f"field {shown} of the Redis hash {HASH}")
            if entry.id.encode() != name:
                raise Damaged(f"field {shown} of the Redis hash {HASH} holds another revocation")
            entries.append(entry)
        except Damaged as error:
            damaged.append(str(error))
    return entries, damaged


async def push(client: Redis, entries: Iterable[Entry]) -> int:
    """Write what is newer than in Redis, and tell everybody; returns how many were. Raises `Damaged`."""
    written = 0
    for some in _slices(list(entries)):
        values = [text for entry in some for text in (entry.id, encode(entry))]
        try:
            written += await client.eval(_PUSH.text, 2, HASH, VERSION, uuid4().hex, *values)
        except ResponseError as error:
            raise _wrong(error, HASH) from None
    return written


async def drop(client: Redis, entries: Iterable[Entry]) -> None:
    """Forget entries that are over, unless there are newer versions."""
    for some in _slices(list(entries)):
        values = [text for entry in some for text in (entry.id, encode(entry))]
        await client.eval(_DROP.text, 1, HASH, *values)


def _slices(entries: list[Entry]) -> Iterable[Sequence[Entry]]:
    return (entries[at : at + _AT_ONCE] for at in range(0, len(entries), _AT_ONCE))


def _wrong(error: ResponseError, key: str) -> Exception:
    """A key of another type is damage; whatever else Redis objects to is Redis's own state."""
    return Damaged(f"the Redis key {key} holds something else than revocations") if "WRONGTYPE" in str(error) else error
