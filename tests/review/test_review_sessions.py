"""Servers that fill what waits for a client who does not listen."""

import time

from mcp_bridge.sessions import Sessions

LOG = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"%d"}}'
ASK = b'{"jsonrpc":"2.0","id":%d,"method":"elicitation/create","params":{}}'


async def test_a_client_that_never_listens_can_be_asked_however_much_its_server_logs() -> None:
    """Ours: the oldest notifications give way to a question; questions give way to nothing."""
    queue = Sessions(1, 100_000).open("o").queue
    for number in range(5000):
        queue.offer(LOG % number)
    assert queue.overflowed
    assert queue.offer(ASK % 1)
    assert queue.offer(ASK % 2)
    queue.close()
    waiting = [message async for message in _all(queue)]

    assert waiting[-2:] == [ASK % 1, ASK % 2]
    assert LOG % 0 not in waiting
    assert LOG % 10 in waiting
    assert len(waiting) == 1024


async def test_questions_without_end_are_bounded_and_cost_little() -> None:
    """Ours: a full queue of questions takes no more, in bytes and in messages."""
    queue = Sessions(1, 30_000).open("o").queue
    for number in range(400):
        queue.offer(LOG % number)
    began = time.process_time()
    taken = sum(queue.offer(ASK % number) for number in range(20_000))
    assert time.process_time() - began < 1.0
    assert 0 < taken * len(ASK % 1) <= 30_000


async def _all(queue):  # type: ignore[no-untyped-def]
    while (message := await queue.get()) is not None:
        yield message
