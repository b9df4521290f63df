"""The sink as a process: real streams over its Unix socket, a real store behind it."""

import asyncio
import json
import signal
import time
import uuid
from datetime import UTC, datetime

import grpc
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sink_harness import SinkProcess, StoreProcess, new_sink, new_store

from secure_mcp_grpc import als, headers

SQL = "'; DROP TABLE requests; --"


def entry(request_id: str, tool: str = "tool") -> accesslog_pb2.HTTPAccessLogEntry:
    made = accesslog_pb2.HTTPAccessLogEntry()
    made.common_properties.start_time.FromNanoseconds(time.time_ns())
    fields = made.common_properties.metadata.filter_metadata[headers.EXT_AUTHZ_NAMESPACE].fields
    for name, value in {"decision": "allow", "tool": tool, "method": "tools/call", "subject": "model-a"}.items():
        fields[name].string_value = value
    made.common_properties.custom_tags["grpc_status"] = "0"
    made.request.request_id = request_id
    made.response.response_code.value = 200
    return made


def message(*entries: accesslog_pb2.HTTPAccessLogEntry, log_name: str = headers.LOG_ENVOY_HTTP) -> bytes:
    made = als_pb2.StreamAccessLogsMessage()
    made.identifier.log_name = log_name
    made.identifier.node.id = "envoy-1"
    made.http_logs.log_entry.extend(entries)
    return made.SerializeToString()


def decision(chain: str, seq: int, **fields: object) -> als.Record:
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return time.time_ns(), json.dumps({"chain": chain, "seq": seq, "ts": stamp, **fields}).encode()


async def send(sink: SinkProcess, *messages: bytes) -> None:
    """One stream, half-closed; returns with the acknowledgement."""
    async with grpc.aio.insecure_channel(sink.target) as channel:
        await channel.stream_unary(als.METHOD)(iter(messages), timeout=20)


async def send_records(sink: SinkProcess, log_name: str, records: list[als.Record], timeout_s: float = 20) -> None:
    async with grpc.aio.insecure_channel(sink.target) as channel:
        await als.send_batch(channel, log_name, "node-1", records, timeout_s=timeout_s)


def query(store: StoreProcess, sql: str, **parameters: object) -> list[tuple[object, ...]]:
    client = store.client("reader")
    try:
        return [tuple(row) for row in client.query(sql, parameters=parameters).result_rows]
    finally:
        client.close()


async def eventually(check: object, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(check):  # type: ignore[arg-type]
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.1)


async def test_acknowledged_records_are_in_the_store(store: StoreProcess, sink: SinkProcess) -> None:
    """Ours: the response is sent only once the batch is durable."""
    chain = uuid.uuid4().hex
    await send_records(sink, headers.LOG_AUTHZ, [decision(chain, i) for i in range(1, 501)])

    sql = "SELECT count(), max(seq) FROM decisions WHERE chain = {chain:String}"
    assert query(store, sql, chain=chain) == [(500, 500)]


async def test_resent_records_are_not_doubled(store: StoreProcess, sink: SinkProcess) -> None:
    """Ours: the acknowledgement was lost, the sender sends again, with more behind."""
    chain = uuid.uuid4().hex
    records = [decision(chain, i) for i in range(1, 21)]
    await send_records(sink, headers.LOG_AUTHZ, records[:10])
    await send_records(sink, headers.LOG_AUTHZ, records)

    sql = "SELECT count(), uniqExact(seq) FROM decisions WHERE chain = {chain:String}"
    assert query(store, sql, chain=chain) == [(20, 20)]


async def test_endless_stream_of_envoy_shows_up_without_being_closed(store: StoreProcess, sink: SinkProcess) -> None:
    """Envoy: its streams never end."""
    request_id = uuid.uuid4().hex
    async with grpc.aio.insecure_channel(sink.target) as channel:
        call = channel.stream_unary(als.METHOD)()
        await call.write(message(entry(request_id)))
        sql = "SELECT count() FROM requests WHERE request_id = {id:String} AND identity = 'model-a'"
        await eventually(lambda: query(store, sql, id=request_id) == [(1,)])
        call.cancel()


async def test_hostile_entries_are_stored_or_kept_and_run_nothing(store: StoreProcess, sink: SinkProcess) -> None:
    """Ours: issue 5's table of hostile entries."""
    mark = uuid.uuid4().hex
    huge = entry(f"{mark}-huge", "x" * (1 << 20))
    injection = entry(f"{mark}-sql", SQL)
    negative = entry(f"{mark}-negative")
    negative.common_properties.duration.seconds = -5
    crowded = entry(f"{mark}-crowded")
    for i in range(10_000):
        crowded.request.request_headers[f"h{i}"] = "v"
    not_utf8 = message(entry(f"{mark}-bytes", "@@@@"), entry(f"{mark}-beside")).replace(b"@@@@", b"\xff\xfe\x00;")
    await send(sink, not_utf8, message(huge, injection, negative, crowded), b"\xff\xff\xff not protobuf")

    sql = "SELECT request_id, substring(tool, 1, 40) FROM requests WHERE startsWith(request_id, {mark:String})"
    found = {str(name).rpartition("-")[2]: tool for name, tool in query(store, sql, mark=mark)}
    assert found.keys() == {"bytes", "beside", "huge", "sql", "negative", "crowded"}
    assert found["sql"] == SQL
    assert found["bytes"] == "\\xff\\xfe\0;"
    assert query(store, "SELECT count() > 0 FROM dead_letters WHERE reason = 'bad_message'") == [(1,)]
    assert query(store, "EXISTS TABLE requests") == [(1,)]


async def test_every_table_takes_its_rows(store: StoreProcess, sink: SinkProcess) -> None:
    """Ours: the columns of tables.py are those of the migrations."""
    request_id = uuid.uuid4().hex
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    line = json.dumps({"ts": stamp, "request_id": request_id, "outcome": "ok", "arguments": SQL, "upstream_us": 5})
    await send_records(sink, headers.LOG_BRIDGE, [(time.time_ns(), line.encode())])
    handshake = als_pb2.StreamAccessLogsMessage()
    handshake.identifier.log_name = headers.LOG_ENVOY_TCP
    common = handshake.tcp_logs.log_entry.add().common_properties
    common.downstream_transport_failure_reason = request_id
    await send(sink, handshake.SerializeToString())

    sql = "SELECT arguments, upstream_us FROM interactions WHERE request_id = {id:String}"
    assert query(store, sql, id=request_id) == [(SQL, 5)]
    assert query(store, "SELECT count() FROM handshakes WHERE failure = {id:String}", id=request_id) == [(1,)]


async def test_frames_are_requests_in_any_order_and_once(store: StoreProcess, sink: SinkProcess) -> None:
    """Issue 4: what a pipelined session holds, whichever log comes first, and however often a record is sent."""
    session = uuid.uuid4().hex
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def frame(number: int, **more: object) -> tuple[int, bytes]:
        fixed = {"ts": stamp, "request_id": f"{session}/{number}", "rpc": "Session", "request_bytes": 10}
        return time.time_ns(), json.dumps(fixed | {"method": "tools/call", "tool": "t"} | more).encode()

    opening = {"ts": stamp, "request_id": session, "rpc": "Session", "method": "grpc:session", "outcome": "ok"}
    frames = [
        (time.time_ns(), json.dumps(opening).encode()),
        frame(1, outcome="ok", grpc_status=0, seq=5, chain="c", duration_us=7),
        frame(2, outcome="refused", grpc_status=7, reason="not_permitted", seq=6, chain="c"),
        frame(3, outcome="refused", grpc_status=8, reason="rate_limited"),
    ]
    sql = (
        "SELECT request_id, outcome, decision, reason, request_bytes, duration_us FROM traffic "
        "WHERE startsWith(request_id, {id:String}) ORDER BY request_id"
    )
    expected = [
        (f"{session}/1", "allowed", "allow", "", 10, 7),
        (f"{session}/2", "denied", "deny", "not_permitted", 10, 0),
        (f"{session}/3", "limited", "", "rate_limited", 10, 0),
    ]
    await send_records(sink, headers.LOG_BRIDGE, frames)
    await send_records(sink, headers.LOG_BRIDGE, frames)
    assert query(store, sql, id=session) == expected

    last = entry(session)
    last.request.request_body_bytes = 30
    fields = last.common_properties.metadata.filter_metadata[headers.EXT_AUTHZ_NAMESPACE].fields
    fields["method"].string_value = "grpc:session"
    await send(sink, message(last))

    found = query(store, sql, id=session)
    assert found[1:] == expected
    assert (found[0][0], found[0][4]) == (session, 0)


async def test_reason_of_a_refusal_is_of_who_refused(store: StoreProcess, sink: SinkProcess) -> None:
    """Ours: after an allow, `permitted` and its rule would say the opposite of what happened."""
    mark = uuid.uuid4().hex

    def ended(
        name: str, decision: str, reason: str, grpc_status: str, details: str
    ) -> accesslog_pb2.HTTPAccessLogEntry:
        made = entry(f"{mark}-{name}")
        fields = made.common_properties.metadata.filter_metadata[headers.EXT_AUTHZ_NAMESPACE].fields
        for key, value in {"decision": decision, "reason": reason, "rule": "p, *"}.items():
            fields[key].string_value = value
        made.common_properties.custom_tags["grpc_status"] = grpc_status
        made.response.response_code_details = details
        return made

    limited = ended("limited", "allow", "permitted", "8", "local_rate_limited")
    quota = ended("quota", "deny", "quota_exceeded", "8", "ext_authz_denied")
    bridge = ended("bridge", "allow", "permitted", "7", "via_upstream")
    denied = ended("denied", "deny", "denied_by_rule", "7", "ext_authz_denied")
    await send(sink, message(limited, quota, bridge, denied))

    sql = "SELECT request_id, outcome, reason, rule FROM traffic WHERE startsWith(request_id, {mark:String})"
    assert {name.rpartition("-")[2]: rest for name, *rest in query(store, sql, mark=mark)} == {
        "limited": ["limited", "rate_limited", ""],
        "quota": ["limited", "quota_exceeded", "p, *"],
        "bridge": ["denied", "refused_by_bridge", ""],
        "denied": ["denied", "denied_by_rule", "p, *"],
    }


async def test_health_and_metrics(sink: SinkProcess) -> None:
    """Ours: grpc.health.v1 beside the service; what came in is counted."""
    await send(sink, message(entry("x")))
    async with grpc.aio.insecure_channel(sink.target) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert sink.metric('mcp_sink_entries_total{log="mcp.envoy.http"}') > 0
    assert sink.metric('mcp_sink_rows_inserted_total{table="requests"}') > 0


async def test_store_away_and_back_loses_and_doubles_nothing() -> None:
    """Ours: rows wait in memory, own senders wait for their acknowledgement, and both get through."""
    chain = uuid.uuid4().hex
    with new_store() as store, new_sink(store) as sink:
        await send_records(sink, headers.LOG_AUTHZ, [decision(chain, 1)])
        store.kill()
        waiting = asyncio.create_task(send_records(sink, headers.LOG_AUTHZ, [decision(chain, 2)], timeout_s=40))
        await eventually(lambda: sink.metric("mcp_sink_store_up") == 0)
        assert sink.metric("mcp_sink_pending_rows") == 1
        assert not waiting.done()
        await asyncio.to_thread(store.start)
        await waiting
        found = query(store, "SELECT groupArray(seq) FROM (SELECT seq FROM decisions ORDER BY seq)")

    assert found == [([1, 2],)]


async def test_full_memory_drops_envoys_entries_visibly_and_holds_back_our_senders() -> None:
    """Ours: bounded memory; a counted loss for those who never wait, no acknowledgement for those who do."""
    chain = uuid.uuid4().hex
    with new_store() as store, new_sink(store, MCP_SINK_MAX_PENDING_ROWS="1000") as sink:
        await eventually(lambda: sink.metric("mcp_sink_store_up") == 1)
        store.kill()
        async with grpc.aio.insecure_channel(sink.target) as channel:
            call = channel.stream_unary(als.METHOD)()
            for _ in range(5):
                await call.write(message(*[entry("x")] * 400))
            await eventually(lambda: sink.metric("mcp_sink_entries_dropped_total") == 800)
            health = health_pb2_grpc.HealthStub(channel)
            deadline = time.monotonic() + 10
            while (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status != 2:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            with pytest.raises(grpc.aio.AioRpcError):
                await send_records(sink, headers.LOG_AUTHZ, [decision(chain, 1)], timeout_s=0.5)
            await asyncio.to_thread(store.start)
            await send_records(sink, headers.LOG_AUTHZ, [decision(chain, 2)])
            call.cancel()
        found = query(store, "SELECT count() FROM requests")

    assert found == [(1200,)]


async def test_sigterm_flushes_what_was_received() -> None:
    """Ours: stop listening, drain, flush, close; within three seconds."""
    with new_store() as store, new_sink(store, MCP_SINK_BATCH_DELAY_S="30") as sink:
        assert sink.process is not None
        async with grpc.aio.insecure_channel(sink.target) as channel:
            call = channel.stream_unary(als.METHOD)()
            await call.write(message(*[entry("x")] * 100))
            await eventually(lambda: sink.metric("mcp_sink_pending_rows") == 100)
            started = time.monotonic()
            sink.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(sink.process.wait, 10) == 0
            took_s = time.monotonic() - started
            call.cancel()
        assert query(store, "SELECT count() FROM requests") == [(100,)]

    assert took_s < 4
    assert not (sink.run_dir / "sink.sock").exists()


async def test_records_resent_to_the_next_sink_are_not_doubled() -> None:
    """Ours: kill -9 after the insert and before the acknowledgement reached the sender."""
    chain = uuid.uuid4().hex
    line = json.dumps({"ts": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "request_id": chain}).encode()
    with new_store() as store, new_sink(store) as sink:
        records = [decision(chain, i) for i in range(1, 11)]
        await send_records(sink, headers.LOG_AUTHZ, records)
        await send_records(sink, headers.LOG_BRIDGE, [(time.time_ns(), line)])
        assert sink.process is not None
        sink.process.kill()
        sink.process.wait(10)
        sink.start()
        await send_records(sink, headers.LOG_AUTHZ, [*records, decision(chain, 11)])
        await send_records(sink, headers.LOG_BRIDGE, [(time.time_ns(), line)])

        assert query(store, "SELECT count(), uniqExact(seq) FROM decisions") == [(11, 11)]
        assert query(store, "SELECT count() FROM interactions") == [(1,)]


async def test_two_sinks_start_on_an_empty_store() -> None:
    """Ours: migrations are safe under several starters and applied once."""
    with new_store() as store, new_sink(store) as one, new_sink(store) as two:
        await asyncio.gather(send(one, message(entry("a"))), send(two, message(entry("b"))))

        assert query(store, "SELECT count() FROM requests") == [(2,)]
        assert query(store, "SELECT arraySort(groupUniqArray(number)) FROM schema_migrations") == [([1, 2, 3],)]
