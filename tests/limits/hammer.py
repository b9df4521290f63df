"""Takes a quota in Redis as often as it can and prints how often it got it: `hammer.py URL KEY LIMIT BUCKET TRIES`."""

import sys

import redis

from authz_service.quotas.shared import TAKE


def main(url: str, key: str, limit: str, bucket_us: str, tries: str) -> None:
    with redis.Redis.from_url(url) as client:
        print(sum(client.eval(TAKE.text, 1, key, limit, bucket_us)[0] == 0 for _ in range(int(tries))))


if __name__ == "__main__":
    main(*sys.argv[1:])
