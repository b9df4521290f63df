"""When the work for a record is done."""

import asyncio

from prometheus_client import CollectorRegistry

from mcp_bridge.capture.build import build_capture
from mcp_bridge.capture.settings import CaptureSettings
from mcp_bridge.execute import caller_of
from mcp_bridge.metrics import BridgeMetrics
from mcp_bridge.recording import Recorder


async def test_answer_is_on_its_way_before_its_record_is_made() -> None:
    """Ours: a call does not wait for its own record; the http2 server writes an answer when its task is done."""
    order: list[str] = []
    recorded = asyncio.Event()

    def offer(_time_ns: int, _record: bytes) -> bool:
        order.append("recorded")
        recorded.set()
        return True

    recorder = Recorder(offer, BridgeMetrics(CollectorRegistry()), build_capture(CaptureSettings()))

    async def call() -> None:
        recorder.leave(recorder.arrive("Call", caller_of(()), 0), b"{}")

    task = asyncio.create_task(call())
    task.add_done_callback(lambda _: order.append("written"))
    await asyncio.wait_for(recorded.wait(), 5)

    assert order == ["written", "recorded"]
