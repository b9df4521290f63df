"""The embedded store as a process: start, second start, kill, stop, files."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sink_harness import READY_S, StoreProcess, environment, new_store


@pytest.fixture
def store() -> StoreProcess:  # type: ignore[misc]
    with new_store() as running:
        yield running


def start_in_vain(store: StoreProcess) -> subprocess.CompletedProcess[str]:
    """Another store on the directory of `store`, to its end."""
    env = environment(store.run_dir) | {"MCP_STORE_DATA_DIR": str(store.data_dir), "MCP_STORE_PORT": "0"}
    return subprocess.run(
        [sys.executable, "-m", "trace_sink.store"],
        env=env,
        capture_output=True,
        text=True,
        timeout=READY_S,
        check=False,
    )


def test_second_store_on_the_directory_says_so_and_exits_2(store: StoreProcess) -> None:
    """Ours: one clear line that names the directory, exit code 2; the first store is not disturbed."""
    second = start_in_vain(store)

    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert str(store.data_dir) in second.stderr
    client = store.client()
    assert client.command("SELECT 1") == 1
    client.close()


def test_acknowledged_rows_survive_kill_9_and_reopening_is_quick(store: StoreProcess) -> None:
    """Ours: every acknowledged row is there after kill -9; the store opens in under two seconds."""
    client = store.client()
    client.command("CREATE TABLE rows (n UInt64) ENGINE = MergeTree ORDER BY n")
    acknowledged = 0
    killer = threading.Timer(1.0, store.kill)
    killer.start()
    try:
        while True:
            client.command("INSERT INTO rows VALUES", data=f"({acknowledged})")
            acknowledged += 1
    except (ClickHouseError, OSError):  # the store is gone
        killer.join()
    client.close()
    opened_s = store.start()
    client = store.client("reader")
    found = client.query("SELECT count(), max(n) FROM rows").result_rows[0]
    client.close()

    assert acknowledged > 0
    assert found[0] in (acknowledged, acknowledged + 1)
    assert opened_s < 6  # under two on an idle machine; this one may be busy


def test_stops_within_two_seconds_even_with_a_query_running(store: StoreProcess) -> None:
    """Ours: SIGTERM kills what runs, and leaves no socket and no announcement."""
    sql = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))"
    command = ["curl", "-s", "-u", f"reader:{store.password('reader')}", store.url, "-d", sql]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as query:
        time.sleep(0.5)
        took_s = store.stop()
        query.wait(5)

    assert took_s < 4  # two on an idle machine
    assert not (store.run_dir / "store.sock").exists()
    assert not (store.run_dir / "store.json").exists()


async def test_health_and_announcement(store: StoreProcess) -> None:
    """Ours: grpc.health.v1 on store.sock; endpoints http and metrics."""
    endpoints = json.loads((store.run_dir / "store.json").read_text())["endpoints"]
    async with grpc.aio.insecure_channel(f"unix:{store.run_dir}/store.sock") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)

    assert endpoints["http"] == f"http://127.0.0.1:{store.port}"
    assert endpoints["metrics"].startswith("127.0.0.1:")
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_files_are_private_and_passwords_stay(store: StoreProcess) -> None:
    """Ours: 0700 and 0600; a restart keeps the passwords."""
    before = store.password("writer"), store.password("reader")
    store.stop()
    store.start()

    assert (store.data_dir.stat().st_mode & 0o777) == 0o700
    for user in ("writer", "reader"):
        assert ((store.data_dir / f"{user}.password").stat().st_mode & 0o777) == 0o600
    assert before == (store.password("writer"), store.password("reader"))
    assert len(set(before)) == 2


def test_password_file_open_to_others_stops_the_start(store: StoreProcess) -> None:
    """Ours: exit code 2 and the file's name."""
    store.stop()
    path = store.data_dir / "reader.password"
    path.chmod(0o644)
    done = start_in_vain(store)

    assert done.returncode == 2
    assert str(path) in done.stderr


def test_ctrl_c_stops_too(store: StoreProcess) -> None:
    """Ours: SIGINT is SIGTERM."""
    assert store.process is not None
    os.kill(store.process.pid, signal.SIGINT)

    assert store.process.wait(10) == 0
