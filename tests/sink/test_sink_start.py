"""Starting the sink with wrong settings; the pure parts of its edge."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sink_harness import environment

from secure_mcp_grpc.errors import UserError
from trace_sink import migrations
from trace_sink.clickhouse import StoreAway, read_target
from trace_sink.tables import COLUMNS


@pytest.mark.parametrize(
    "url", ["tcp://h:9000/mcp", "http://u:hunter2@h:99999/mcp", "hunter2", "http://u:hunter2@h/a-b;c", "http:///mcp"]
)
def test_url_that_cannot_be_read_stops_the_start_and_is_not_shown(tmp_path: Path, url: str) -> None:
    """Ours: exit code 2, one line, no secret."""
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-m", "trace_sink"],
        env=environment(tmp_path) | {"CLICKHOUSE_URL": url, "MCP_SINK_METRICS_PORT": "0"},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "CLICKHOUSE_URL" in done.stderr
    assert "hunter2" not in done.stderr


def test_target_is_read_from_url_and_password_file(tmp_path: Path) -> None:
    """Ours: the password may come in a file; neither it nor the user is in the name for people."""
    path = tmp_path / "password"
    with pytest.raises(StoreAway):
        read_target("http://writer@127.0.0.1:1234/mcp", path)
    path.write_text("hunter2\n")
    target = read_target("http://writer@127.0.0.1:1234/mcp", path)

    assert (target.user, target.password, target.name) == ("writer", "hunter2", "127.0.0.1:1234/mcp")
    assert "hunter2" not in repr(target)
    assert read_target("https://a:p%40ss@ch.example", None).password == "p@ss"


def test_migrations_are_numbered_and_hold_the_columns_that_are_written() -> None:
    """Ours: statements end with `;` at the end of a line."""
    sql = "\n".join(statement for migration in migrations.load() for statement in migrations.statements(migration.sql))

    assert sql.count("CREATE TABLE IF NOT EXISTS") == sql.count("CREATE TABLE") == len(COLUMNS)
    for columns in COLUMNS.values():
        for column in columns:
            assert re.search(rf"(?:^    |COLUMN IF NOT EXISTS ){column} ", sql, re.MULTILINE), column


def test_database_name_is_an_identifier() -> None:
    """Ours: it is the one part of the URL that becomes SQL."""
    with pytest.raises(UserError):
        read_target("http://h/x;DROP", None)
