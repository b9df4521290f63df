"""Attempts to write, to reach files or to run code through the store's two users."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from sink_harness import StoreProcess

# {secret} is a file outside the store; nobody may see what is in it.
READS_OF_FILES = [
    "SELECT * FROM file('{secret}', LineAsString)",
    "SELECT * FROM FILE('{secret}', LineAsString)",
    "SELECT file('{secret}')",
    "SELECT File('{secret}')",
    "SELECT file /* ( */ ('{secret}')",
    "SELECT file -- (\n ('{secret}')",
    "SELECT '/*', file/*x*/('{secret}'), '*/'",
    "SELECT '\\'', file('{secret}'), ''''",
    "SELECT `file`('{secret}')",
    "SELECT \"file\"('{secret}')",
    "SELECT `fi\\x6ce`('{secret}')",
    "SELECT \"\\x66\\x69\\x6c\\x65\"('{secret}')",
    "SELECT arrayMap(file, ['{secret}'])",
    "SELECT arrayMap(`fi\\x6Ce`, ['{secret}'])",
    "SELECT arrayMap({{f:Identifier}}, ['{secret}'])",
    "SELECT arrayMap({{g:Identifier}}, ['{secret}'])",
    "SELECT * APPLY(file) FROM (SELECT '{secret}')",
    "SELECT * APPLY file FROM (SELECT '{secret}')",
    "SELECT (SELECT (SELECT file('{secret}')))",
    "WITH (SELECT file('{secret}')) AS x SELECT x",
    "WITH x AS (SELECT * FROM file('{secret}', LineAsString)) SELECT * FROM x",
    "SELECT * FROM view(SELECT file('{secret}'))",
    "SELECT 1 WHERE file('{secret}') != ''",
    "SELECT 1 UNION ALL SELECT file('{secret}')",
    "EXPLAIN SELECT file('{secret}')",
    "EXPLAIN PLAN SELECT * FROM file('{secret}', LineAsString)",
    "DESCRIBE TABLE file('{secret}', LineAsString)",
    "SELECT * FROM default.`{secret}`",
    "SELECT * FROM merge('default', '.*')",
    "SELECT 1 FORMAT Template SETTINGS format_template_resultset = '{secret}'",
    "SELECT 1 SETTINGS additional_result_filter = 'file(''{secret}'') != '''''",
    "SELECT * FROM url('file://{secret}', LineAsString)",
    "SELECT * FROM s3('http://127.0.0.1:1/{secret}', LineAsString)",
    "SELECT * FROM remote('127.0.0.1', 'system.one')",
    "SELECT * FROM executable('cat {secret}', LineAsString, 'line String')",
    "SELECT * FROM sqlite('{secret}', 'x')",
    "SELECT * FROM Python(self)",
    "SELECT * FROM `Python`(self)",
    "SELECT * FROM dictionary('x')",
    "SELECT aiGenerate('x')",
]
WRITES = [
    "INSERT INTO kept VALUES (2)",
    "insert /* x */ into kept select 2",
    "/* SELECT */ INSERT INTO kept SELECT 2",
    "-- SELECT\nINSERT INTO kept SELECT 2",
    "SELECT 1; INSERT INTO kept SELECT 2",
    "SELECT 1;; DROP TABLE kept",
    "INSERT INTO FUNCTION file('{secret}.out', CSV, 'a Int32') SELECT 1",
    "SELECT 1 INTO OUTFILE '{secret}.out'",
    "SELECT 1 /* x */ into/**/outfile '{secret}.out' TRUNCATE",
    "SELECT 1 FORMAT Protobuf SETTINGS output_format_schema = '{secret}.out'",
    "INSERT INTO kept FROM INFILE '{secret}' FORMAT CSV",
    "CREATE TABLE more (a Int32) ENGINE = Memory",
    "CREATE TEMPORARY TABLE more (a Int32)",
    "CREATE VIEW more AS SELECT 1",
    "CREATE FUNCTION more AS x -> x",
    "ALTER TABLE kept DELETE WHERE 1",
    "DROP TABLE kept",
    "TRUNCATE TABLE kept",
    "OPTIMIZE TABLE kept",
    "RENAME TABLE kept TO lost",
    "SYSTEM FLUSH LOGS",
    "SYSTEM STOP MERGES",
    "KILL QUERY WHERE 1",
    "SET readonly = 0",
    "SET max_threads = 1",
    "GRANT ALL ON *.* TO default",
    "CREATE USER x",
    "BACKUP TABLE kept TO File('{secret}.out')",
    "ATTACH TABLE x",
    "EXECUTE AS default SELECT 1",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS log_comment = 'hidden'",
    "SELECT 1 SETTINGS max_memory_usage = 900000000000",
    "EXPLAIN ANALYZE INSERT INTO kept SELECT 2",
    "BEGIN TRANSACTION",
    "DETACH TABLE kept",
]
FORBIDDEN_TO_WRITERS = [
    *READS_OF_FILES,
    "SELECT 1 INTO OUTFILE '{secret}.out'",
    "KILL QUERY WHERE 0 INTO OUTFILE '{secret}.out'",
    "INSERT INTO FUNCTION file('{secret}.out', CSV, 'a Int32') SELECT 1",
    "INSERT INTO FUNCTION file('{secret}.out', CSV, 'a Int32') VALUES (1)",
    "INSERT INTO kept FROM INFILE '{secret}' FORMAT CSV",
    "SELECT 1 FORMAT Protobuf SETTINGS output_format_schema = '{secret}.out'",
    "CREATE TABLE more (a String) ENGINE = File(CSV, '{secret}')",
    "CREATE TABLE more ENGINE = Memory AS SELECT * FROM file('{secret}', LineAsString)",
    "CREATE TABLE more AS file('{secret}', LineAsString)",
    "CREATE TABLE more (a String) ENGINE = URL('http://127.0.0.1:1/', CSV)",
    "CREATE TABLE more (a Int32) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '/tmp/x/')",
    "CREATE DATABASE more ENGINE = Filesystem('/')",
    "CREATE DICTIONARY more (a Int32) PRIMARY KEY a SOURCE(FILE(path '{secret}')) LAYOUT(FLAT()) LIFETIME(0)",
    "SET param_x = 'file'",
    "CREATE FUNCTION more AS x -> file(x)",
    "BACKUP TABLE kept TO File('{secret}.out')",
    "SYSTEM SHUTDOWN",
    "CREATE USER x",
    "SELECT 1; SELECT 2",
]


@pytest.fixture(scope="module")
def secret(store: StoreProcess) -> Path:
    path = store.root / "secret.txt"
    path.write_text("MOST SECRET\n")
    client = store.client()
    client.command("CREATE TABLE kept (a Int32) ENGINE = MergeTree ORDER BY a")
    client.command("INSERT INTO kept VALUES (1)")
    client.close()
    return path


def attempt(store: StoreProcess, user: str, statement: str, secret: Path) -> str:
    """The answer, or what the store said against it."""
    sql = statement.format(secret=secret).encode()
    request = urllib.request.Request(f"{store.url}?database=mcp&param_f=file&param_g=%5Cx66ile", data=sql)
    request.add_header("X-ClickHouse-User", user)
    request.add_header("X-ClickHouse-Key", store.password(user))
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return str(response.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        with error:
            return f"refused: {error.read().decode()}"


def untouched(store: StoreProcess, secret: Path) -> bool:
    rows = attempt(store, "writer", "SELECT a FROM mcp.kept", secret)
    return rows == "1\n" and not list(secret.parent.glob("secret.txt.*"))


@pytest.mark.parametrize("statement", READS_OF_FILES)
def test_reader_cannot_reach_a_file(store: StoreProcess, secret: Path, statement: str) -> None:
    """Ours: design.md, "Readers"."""
    answer = attempt(store, "reader", statement, secret)

    assert answer.startswith("refused")
    assert "MOST SECRET" not in answer


@pytest.mark.parametrize("statement", WRITES)
def test_reader_cannot_change_anything(store: StoreProcess, secret: Path, statement: str) -> None:
    """Ours: SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS and USE are all there is."""
    answer = attempt(store, "reader", statement, secret)

    assert answer.startswith("refused")
    assert untouched(store, secret)


@pytest.mark.parametrize("statement", FORBIDDEN_TO_WRITERS)
def test_writer_cannot_leave_the_store(store: StoreProcess, secret: Path, statement: str) -> None:
    """Ours: the writer owns the tables, not the machine."""
    answer = attempt(store, "writer", statement, secret)

    assert answer.startswith("refused")
    assert "MOST SECRET" not in answer
    assert untouched(store, secret)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count() FROM kept WHERE a = 1",
        "( SELECT 1 )",
        "/* file('x') */ SELECT 1 -- into outfile",
        "SELECT 'file(x)', 'INTO OUTFILE', $$file$$",
        "SELECT 1 AS profile_file, 2 AS files",
        "WITH 1 AS x SELECT x",
        "FROM kept SELECT a",
        "SHOW TABLES",
        "SHOW CREATE TABLE kept",
        "DESCRIBE TABLE kept",
        "EXISTS TABLE kept",
        "EXPLAIN SELECT 1",
        "USE mcp",
        "SELECT * FROM numbers(3)",
        "SELECT * FROM values('a Int32', 1)",
        "SELECT 1 SETTINGS max_threads = 1",
        "SELECT 1;",
    ],
)
def test_reader_reads(store: StoreProcess, secret: Path, statement: str) -> None:
    """Ours: what looks like the above and is not stays allowed."""
    assert not attempt(store, "reader", statement, secret).startswith("refused")


@pytest.mark.parametrize(
    "statement",
    [
        "SET max_threads = 1",
        "CREATE TABLE IF NOT EXISTS extra (a Int32) ENGINE = ReplacingMergeTree ORDER BY a",
        "CREATE TEMPORARY TABLE scratch (a Int32)",
        "CREATE OR REPLACE VIEW seen AS SELECT * FROM kept",
        "INSERT INTO extra SELECT number FROM numbers(3)",
        "INSERT INTO extra (a) VALUES (7)",
        "ALTER TABLE extra ADD COLUMN IF NOT EXISTS b String",
        "OPTIMIZE TABLE extra FINAL",
        "KILL QUERY WHERE query_id = 'none'",
        "TRUNCATE TABLE extra",
    ],
)
def test_writer_owns_the_tables(store: StoreProcess, secret: Path, statement: str) -> None:
    """Ours: schema and data are the writer's."""
    assert not attempt(store, "writer", statement, secret).startswith("refused")


def test_dangerous_settings_of_the_url_are_refused(store: StoreProcess, secret: Path) -> None:
    """Ours: constraints hold for the URL as well as for SETTINGS."""
    client = store.client("reader")
    for name in ("format_template_resultset", "additional_result_filter", "dialect", "output_format_schema"):
        with pytest.raises(DatabaseError, match=r"should not be changed|BAD_ARGUMENTS"):
            client._raw_request("SELECT 1", {name: str(secret)})
    client.close()
