"""The schema as numbered SQL files, applied once each and in order.

Safe under several starters: every statement is idempotent (`IF NOT EXISTS`),
so two that apply the same file at once do no harm, and a file that was applied
is recorded in `schema_migrations`.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

from secure_mcp_grpc.errors import UserError

__all__ = ["Migration", "load", "migrate", "statements"]

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_ACCESS_DENIED = 497


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()[:16]


def load() -> list[Migration]:
    """All migrations in order of their numbers, which start at 1 and have no gaps."""
    found = [
        Migration(int(match.group(1)), match.group(2), file.read_text(encoding="utf-8"))
        for file in resources.files(__name__).iterdir()
        if (match := _NAME.fullmatch(file.name))
    ]
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise RuntimeError("migrations must be numbered 0001, 0002, … without gaps")
    return found


def statements(sql: str) -> list[str]:
    """The statements of a file, which end with `;` at the end of a line; comment lines are left out."""
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    parts = re.split(r";[ \t]*(?:\n|\Z)", "\n".join(lines))
    return [part.strip() for part in parts if part.strip()]


def migrate(client: Any, database: str) -> int:
    """Make the database if we may, apply what is missing, and make `database` the client's own.

    Returns how many migrations were applied. Raises the library's errors, and
    `UserError` for a schema that is newer than this program.
    """
    from clickhouse_connect.driver.exceptions import DatabaseError

    try:
        client.command(f"CREATE DATABASE IF NOT EXISTS {database}")
    except DatabaseError as error:
        if error.code != _ACCESS_DENIED:
            raise
    client.database = database
    client.command(
        "CREATE TABLE IF NOT EXISTS schema_migrations (number UInt32, name String, digest String, "
        "applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')) ENGINE = ReplacingMergeTree ORDER BY number"
    )
    done = {int(row[0]) for row in client.query("SELECT DISTINCT number FROM schema_migrations").result_rows}
    known = load()
    if done and max(done) > len(known):
        raise UserError(f"the store's schema is version {max(done)}, newer than this program's {len(known)}; upgrade")
    missing = [migration for migration in known if migration.number not in done]
    for migration in missing:
        for statement in statements(migration.sql):
            client.command(statement)
        client.command(
            "INSERT INTO schema_migrations (number, name, digest) "
            "SELECT {number:UInt32}, {name:String}, {digest:String}",
            parameters={"number": migration.number, "name": migration.name, "digest": migration.digest},
        )
    return len(missing)
