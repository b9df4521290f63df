"""A refusal for a quota, through a real Envoy."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

sys.path.append(str(Path(__file__).parents[1] / "envoy"))

from envoy_harness import CALL, Pki, Pod, running_pod

from authz_service.answer import answer
from authz_service.verdict import Code, Deny

SENTENCE = "model-a has used up its quota of 100 calls per 60 s for git_commit; try again in 12 s"


@pytest.fixture
async def pod(short_dir: Path) -> AsyncIterator[Pod]:
    pki = Pki(short_dir / "pki")
    pki.issue("model-a")
    async with running_pod(short_dir, pki) as pod:
        yield pod


async def test_the_retry_hint_reaches_the_client(pod: Pod) -> None:
    """Issue 3: RESOURCE_EXHAUSTED with a retry hint; google.rpc.RetryInfo and retry-after say the same."""
    from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

    refusal = Deny(Code.RESOURCE_EXHAUSTED, "quota_exceeded", SENTENCE, "quota commits", 12)
    pod.authz.answer = lambda _: CheckResponse.FromString(answer(None, refusal, "chain", 1))
    async with pod.channel() as channel:
        call = channel.unary_unary(CALL)(b"hello", timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
    trailers = dict([*(raised.value.initial_metadata() or ()), *(raised.value.trailing_metadata() or ())])
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    hint = error_details_pb2.RetryInfo()

    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert raised.value.details() == SENTENCE
    assert details.code == 8
    assert details.message == SENTENCE
    assert details.details[0].Unpack(hint)
    assert hint.retry_delay.seconds == 12
    assert trailers["retry-after"] == "12"
    assert not pod.bridge.calls
