"""Quotas counted in Redis, for all sidecars together."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from redis.exceptions import ResponseError

from authz_service.quotas.local import LocalQuotas
from authz_service.quotas.quota import BUCKETS, Exceeded, Take
from authz_service.redis_link import RedisLink, Script
from authz_service.shared_state import SharedStateLost
from secure_mcp_grpc import logs

__all__ = ["TAKE", "SharedQuotas"]

logger = logging.getLogger(__name__)

TAKE: Final = Script(f"""
local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local worst, worst_wait, stale = 0, 0, {{}}
for i, key in ipairs(KEYS) do
  local limit, bucket_us = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local now = math.floor(now_us / bucket_us)
  local fields, live, total, old = redis.call('HGETALL', key), {{}}, 0, {{}}
  for f = 1, #fields, 2 do
    local bucket, count = tonumber(fields[f]), tonumber(fields[f + 1])
    if bucket and count and bucket >= now - {BUCKETS} and bucket <= now + {BUCKETS} then
      live[#live + 1] = {{bucket, count}}
      total = total + count
    else
      old[#old + 1] = fields[f]
    end
  end
  stale[i] = old
  if total >= limit then
    table.sort(live, function(a, b) return a[1] < b[1] end)
    local wait = 0
    for _, entry in ipairs(live) do
      total = total - entry[2]
      if total < limit then
        wait = math.max(1, (entry[1] + {BUCKETS + 1}) * bucket_us - now_us)
        break
      end
    end
    if wait > worst_wait then worst, worst_wait = i, wait end
  end
end
if worst > 0 then return {{worst, worst_wait}} end
for i, key in ipairs(KEYS) do
  local bucket_us = tonumber(ARGV[2 * i])
  if #stale[i] > 0 then redis.call('HDEL', key, unpack(stale[i])) end
  redis.call('HINCRBY', key, string.format('%.0f', math.floor(now_us / bucket_us)), 1)
  redis.call('PEXPIRE', key, math.ceil({BUCKETS + 2} * bucket_us / 1000))
end
return {{0, 0}}
""")
"""KEYS: counters (hashes bucket → calls); ARGV: limit and bucket length (µs) of each. By Redis's clock.

Answers the place of the counter that has to wait longest and for how long (µs), or zeros after one call was counted
against all."""


class SharedQuotas:
    """Asks Redis in one round trip; where it is lost, this process counts for itself.

    What Redis admits is counted here too, so that losing Redis does not hand out quota anew. With `refuse` nothing
    is counted here, and `take` raises `SharedStateLost` instead.
    """

    def __init__(self, link: RedisLink, local: LocalQuotas, fell_back: Callable[[], None], *, refuse: bool) -> None:
        self._link = link
        self._local = local
        self._fell_back = fell_back
        self._refuse = refuse
        self._unusable = ""

    def take(self, takes: Sequence[Take]) -> Exceeded | Awaitable[Exceeded | None] | None:
        """As `LocalQuotas.take`, at once while Redis is lost."""
        if self._link.up:
            return self._ask(takes)
        return self._take_here(takes)

    async def _ask(self, takes: Sequence[Take]) -> Exceeded | None:
        keys = [take.key for take in takes]
        values = [number for take in takes for number in (take.quota.limit, take.quota.bucket_us)]
        try:
            worst, wait = _read(await self._link.evaluate(TAKE, keys, values), len(takes))
        except ResponseError:
            self._report(keys)
        except SharedStateLost:
            pass
        except ValueError as error:
            self._link.lost(error)
        else:
            if worst:
                return Exceeded(takes[worst - 1], wait)
            self._local.note(takes)
            return None
        return self._take_here(takes)

    def _take_here(self, takes: Sequence[Take]) -> Exceeded | None:
        if self._refuse:
            raise SharedStateLost
        self._fell_back()
        return self._local.take(takes)

    def _report(self, keys: list[str]) -> None:
        """A key that holds something else: say so once, not for each call."""
        if self._unusable != keys[0]:
            self._unusable = keys[0]
            logs.event(logger, logging.ERROR, "quota_key_unusable", keys=keys)


def _read(answer: object, count: int) -> tuple[int, int]:
    """Raises `ValueError` for what the script cannot have answered."""
    if not isinstance(answer, list) or len(answer) != 2 or not all(type(number) is int for number in answer):
        raise ValueError
    worst, wait = answer
    if not 0 <= worst <= count or (worst > 0) != (wait > 0):
        raise ValueError
    return worst, wait
