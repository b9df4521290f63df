"""The embedded store as clickhouse-connect and curl see it: a ClickHouse server."""

import datetime
import gzip
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from sink_harness import StoreProcess

NASTY = ["", "it's", 'a "quote"', "tab\tand\nline\n\n; DROP TABLE nasty; --", "back\\slash", "é ☃", "\0nul"]


@pytest.fixture(scope="module")
def table(store: StoreProcess) -> str:
    client = store.client()
    client.command(
        "CREATE TABLE things (id UInt32, text String, ts DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY id"
    )
    now = datetime.datetime.now(datetime.UTC)
    client.insert("things", [[i, f"thing {i}", now] for i in range(1000)], column_names=["id", "text", "ts"])
    client.close()
    return "things"


def curl(store: StoreProcess, *arguments: str, user: str = "reader", data: bytes | None = None) -> tuple[int, str]:
    """HTTP status and body."""
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", "-u", f"{user}:{store.password(user)}", *arguments],
        input=data, capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    body, _, status = done.stdout.decode().rpartition("\n")
    return int(status), body


def test_ping_needs_no_password(store: StoreProcess) -> None:
    """ClickHouse: GET /ping says Ok."""
    with urllib.request.urlopen(f"{store.url}ping", timeout=5) as response:
        assert response.read() == b"Ok.\n"


def test_query_by_get_and_by_post(store: StoreProcess) -> None:
    """ClickHouse: the query is in the URL, in the body, or in both."""
    assert curl(store, f"{store.url}?query=SELECT+1") == (200, "1\n")
    assert curl(store, store.url, "--data-binary", "SELECT 2") == (200, "2\n")
    assert curl(store, f"{store.url}?query=SELECT", "--data-binary", "3 FORMAT JSONEachRow") == (200, '{"3":3}\n')


def test_get_does_not_write(store: StoreProcess) -> None:
    """ClickHouse: GET implies readonly."""
    status, body = curl(store, f"{store.url}?query=CREATE+TABLE+x+(a+Int8)+ENGINE=Memory", user="writer")

    assert (status, "use POST" in body) == (403, True)


@pytest.mark.parametrize("given", ["none", "wrong password", "unknown user", "url", "headers"])
def test_only_the_right_password_opens(store: StoreProcess, given: str) -> None:
    """ClickHouse: code 516 for a wrong user and a wrong password alike; three ways to give them."""
    password = store.password("reader")
    arguments = {
        "none": [],
        "wrong password": ["-u", "reader:wrong"],
        "unknown user": ["-u", f"default:{password}"],
        "url": [f"{store.url}?user=reader&password={password}"],
        "headers": ["-H", "X-ClickHouse-User: reader", "-H", f"X-ClickHouse-Key: {password}"],
    }[given]
    url = [] if given == "url" else [store.url]
    done = subprocess.run(["curl", "-s", *url, *arguments, "-d", "SELECT 1"], capture_output=True, check=True)
    if given in ("url", "headers"):
        assert done.stdout == b"1\n"
    else:
        assert done.stdout.startswith(b"Code: 516.")


def test_server_side_parameters_carry_any_text(store: StoreProcess) -> None:
    """ClickHouse: param_*; values are never part of the statement."""
    client = store.client("reader")
    for text in NASTY:
        assert client.query("SELECT {text:String}", parameters={"text": text}).result_rows == [(text,)]
    assert client.query("SELECT {a:Array(String)}", parameters={"a": NASTY}).result_rows == [(NASTY,)]
    client.close()


def test_inserted_text_comes_back_and_runs_nothing(store: StoreProcess) -> None:
    """Ours: insert bodies go to send_insert; an empty line in them ends nothing."""
    client = store.client()
    client.command("CREATE TABLE nasty (id UInt32, text String) ENGINE = MergeTree ORDER BY id")
    client.insert("nasty", [[i, text] for i, text in enumerate(NASTY)], column_names=["id", "text"])
    lines = "".join(json.dumps({"id": 100 + i, "text": text}) + "\n\n" for i, text in enumerate(NASTY))
    client.raw_insert("nasty", insert_block=lines, fmt="JSONEachRow")

    assert [row[0] for row in client.query("SELECT text FROM nasty ORDER BY id").result_rows] == NASTY * 2
    client.close()


def test_csv_with_a_statement_behind_an_empty_line_is_data_or_an_error(store: StoreProcess, table: str) -> None:
    """Ours: the hole of Connection.query() is not there."""
    status, _ = curl(
        store, f"{store.url}?query=INSERT+INTO+things(id,text)+FORMAT+CSV", "--data-binary", "@-",
        user="writer", data=b"5000,x\n\n;DROP TABLE things\n",
    )  # fmt: skip

    assert status == 400
    assert curl(store, store.url, "-d", "EXISTS TABLE things") == (200, "1\n")


@pytest.mark.parametrize("coding", [False, "lz4", "zstd", "gzip"])
def test_compression_both_ways(store: StoreProcess, table: str, coding: str | bool) -> None:
    """clickhouse-connect: every coding it negotiates."""
    client = store.client(compress=coding)
    name = f"packed_{coding or 'plain'}"
    client.command(f"CREATE TABLE {name} (id UInt32, text String) ENGINE = MergeTree ORDER BY id")
    client.insert(name, [[i, "x" * 50] for i in range(20_000)], column_names=["id", "text"])

    assert client.query(f"SELECT count(), sum(length(text)) FROM {name}").result_rows == [(20_000, 1_000_000)]
    assert len(client.query(f"SELECT * FROM {name}").result_rows) == 20_000
    client.close()


def test_gzip_bodies_and_answers_with_curl(store: StoreProcess) -> None:
    """ClickHouse: Content-Encoding in, enable_http_compression out."""
    packed = gzip.compress(b"SELECT 4") + gzip.compress(b"2")
    status, body = curl(store, store.url, "-H", "Content-Encoding: gzip", "--data-binary", "@-", data=packed)
    assert (status, body) == (200, "42\n")
    status, body = curl(store, f"{store.url}?enable_http_compression=1&query=SELECT+43", "--compressed")
    assert (status, body) == (200, "43\n")


def test_damaged_compression_is_a_clear_error(store: StoreProcess) -> None:
    """Ours: no traceback, no partial run."""
    status, body = curl(store, store.url, "-H", "Content-Encoding: gzip", "--data-binary", "@-", data=b"not gzip")

    assert (status, "damaged" in body) == (400, True)


def test_streams_arrive_whole(store: StoreProcess) -> None:
    """clickhouse-connect: row and block streams, Arrow, data frames."""
    client = store.client("reader")
    with client.query_rows_stream("SELECT number FROM numbers(300000)") as rows:
        assert sum(row[0] for row in rows) == 299_999 * 300_000 // 2
    assert client.query_arrow("SELECT number FROM numbers(1000)").num_rows == 1000
    assert len(client.query_df("SELECT number FROM numbers(1000)")) == 1000
    client.close()


def test_error_carries_code_and_sentence(store: StoreProcess) -> None:
    """ClickHouse: X-ClickHouse-Exception-Code and `Code: N. DB::Exception: …`."""
    client = store.client("reader")
    with pytest.raises(DatabaseError) as raised:
        client.query("SELECT * FROM no_such_table")
    client.close()

    assert raised.value.code == 60
    assert "no_such_table" in str(raised.value)


def test_error_in_the_middle_of_a_stream_is_seen(store: StoreProcess) -> None:
    """ClickHouse: the tagged exception block; a cut answer must not pass for a whole one."""
    client = store.client("reader")
    sql = "SELECT throwIf(number = 900000, 'too far') FROM numbers(1000000) SETTINGS max_block_size = 10000"
    with pytest.raises(StreamFailureError, match="too far"), client.query_rows_stream(sql) as rows:
        for _ in rows:
            pass
    client.close()


def test_settings_of_the_url_hold_for_one_query(store: StoreProcess) -> None:
    """ClickHouse: settings are the request's own."""
    client = store.client("reader")
    sql = "SELECT getSetting('max_threads')"
    before = client.query(sql).result_rows
    assert client.query(sql, settings={"max_threads": 1}).result_rows == [(1,)]
    assert client.query(sql).result_rows == before
    client.close()


def test_sessions_keep_temporary_tables_apart(store: StoreProcess) -> None:
    """ClickHouse: session_id; one request at a time."""
    one, two = (store.client(session_id=str(uuid.uuid4())) for _ in range(2))
    one.command("CREATE TEMPORARY TABLE mine (a Int32)")
    one.insert("mine", [[1], [2]], column_names=["a"], database="")
    assert one.query("SELECT sum(a) FROM mine").result_rows == [(3,)]
    with pytest.raises(DatabaseError):
        two.query("SELECT * FROM mine")
    one.close()
    two.close()


def test_headers_tell_format_query_and_work(store: StoreProcess, table: str) -> None:
    """ClickHouse: X-ClickHouse-Format, -Query-Id, -Timezone, -Summary."""
    url = f"{store.url}?query_id=abc-1&user=reader&password={store.password('reader')}"
    with urllib.request.urlopen(url, data=b"SELECT count() FROM things FORMAT JSON", timeout=5) as response:
        headers = response.headers
        assert json.load(response)["data"] == [{"count()": 1000}]
    assert headers["X-ClickHouse-Format"] == "JSON"
    assert headers["X-ClickHouse-Query-Id"] == "abc-1"
    assert headers["X-ClickHouse-Timezone"]
    assert "read_rows" in json.loads(headers["X-ClickHouse-Summary"])


def test_query_of_a_client_that_left_is_killed(store: StoreProcess) -> None:
    """Ours: KILL QUERY on disconnect; an aggregate would run on."""
    marker = uuid.uuid4().hex
    sql = f"SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number, '{marker}'))"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            ["curl", "-s", "-u", f"reader:{store.password('reader')}", store.url, "-d", sql], timeout=1.0, check=False
        )
    client = store.client("reader")
    deadline = time.monotonic() + 10
    running = f"SELECT count() FROM system.processes WHERE query LIKE '%{marker}%' AND query NOT LIKE '%processes%'"
    while client.query(running).result_rows != [(0,)]:
        assert time.monotonic() < deadline, "the query still runs"
        time.sleep(0.1)
    client.close()


def test_queries_and_inserts_run_side_by_side(store: StoreProcess) -> None:
    """Ours: neither waits for the other for long."""
    slow = threading.Thread(target=lambda: curl(store, store.url, "-d", "SELECT sleep(2)"))
    slow.start()
    time.sleep(0.2)
    started = time.monotonic()
    assert curl(store, store.url, "-d", "SELECT 1")[1] == "1\n"
    took = time.monotonic() - started
    slow.join()

    assert took < 1.5


def test_metrics_count_requests(store: StoreProcess) -> None:
    """Ours: every statement is counted by user, kind and outcome."""
    address = json.loads((store.run_dir / "store.json").read_text())["endpoints"]["metrics"]
    curl(store, store.url, "-d", "SELECT 1")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
        text = response.read().decode()

    assert 'mcp_store_requests_total{kind="select",outcome="ok",user="reader"}' in text


def test_unknown_path_and_method_are_refused(store: StoreProcess) -> None:
    """Ours: nothing but / and /ping."""
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{store.url}play", timeout=5)

    assert raised.value.code == 404
    raised.value.close()
