"""The supervisor: order of start and stop, restarts, nothing left behind. Parts are small real processes."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.stack.part import PartSpec, RunningPart
from secure_mcp_grpc.stack.supervisor import Supervisor, hold_lock, read_state

STEADY = """
import pathlib, signal, sys, time
journal, name = pathlib.Path(sys.argv[1]), sys.argv[2]
def note(what):
    with journal.open("a") as file:
        file.write(f"{what} {name}\\n")
def stop(*_):
    note("stop")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("start")
while True:
    time.sleep(60)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def steady(journal: Path, name: str) -> PartSpec:
    async def probe(_: int) -> bool:
        return journal.exists() and f"start {name}" in journal.read_text()

    return PartSpec(name, lambda: (sys.executable, "-c", STEADY, str(journal), name), probe, stop_timeout_s=2)


def script(name: str, code: str, ready: Callable[[], bool], **extra: float) -> PartSpec:
    async def probe(_: int) -> bool:
        return ready()

    return PartSpec(name, lambda: (sys.executable, "-c", code), probe, **extra)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_stages_start_in_order_and_stop_backwards(tmp_path: Path) -> None:
    """Ours: stop listening, drain, flush, close — the reverse of the start."""
    journal = tmp_path / "journal"
    supervisor = Supervisor(
        [[steady(journal, "a")], [steady(journal, "b")], [steady(journal, "c")]], tmp_path, lambda _: io.StringIO()
    )

    await supervisor.start()
    states = {name: part["state"] for name, part in read_state(tmp_path).items()}
    await supervisor.stop()

    assert states == {"a": "ready", "b": "ready", "c": "ready"}
    assert journal.read_text().split("\n")[:-1] == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]
    assert read_state(tmp_path) == {}


async def test_a_killed_part_comes_back_visibly(tmp_path: Path) -> None:
    """Ours: a part that dies is restarted with back-off, visibly."""
    journal = tmp_path / "journal"
    supervisor = Supervisor([[steady(journal, "a")]], tmp_path, lambda _: io.StringIO())
    await supervisor.start()
    part = supervisor.parts["a"]
    try:
        first = part.state.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: part.state.state == "restarting")
        assert "SIGKILL" in read_state(tmp_path)["a"]["why"]
        await until(lambda: part.state.state == "ready" and part.state.pid != first)
        assert part.state.restarts == 1
    finally:
        await supervisor.stop()


async def test_a_part_that_cannot_start_stops_everything_with_its_own_words(tmp_path: Path) -> None:
    """Ours: one clear line that names the thing; nothing left running."""
    journal = tmp_path / "journal"
    bad = script("b", "import sys; sys.stderr.write('b: port 80 is busy\\n'); sys.exit(2)", lambda: False)
    supervisor = Supervisor([[steady(journal, "a")], [bad]], tmp_path, lambda _: io.StringIO())

    with pytest.raises(UserError, match=r"^port 80 is busy$"):
        await supervisor.start()

    assert journal.read_text() == "start a\nstop a\n"


async def test_a_part_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """Ours: stopping ends within its time."""
    output = io.StringIO()
    spec = script("a", STUBBORN, lambda: "up" in output.getvalue(), stop_timeout_s=0.2)
    supervisor = Supervisor([[spec]], tmp_path, lambda _: output)
    await supervisor.start()
    pid = supervisor.parts["a"].state.pid

    await supervisor.stop()

    assert not alive(pid)


async def test_killing_the_supervisor_takes_its_parts_along(tmp_path: Path) -> None:
    """Ours: even kill -9 of the supervisor leaves no process behind (Linux)."""
    if sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")
    code = f"""
import asyncio, io, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_shared_supervisor import steady
from secure_mcp_grpc.stack.supervisor import Supervisor
async def main():
    here = Path({str(tmp_path)!r})
    await Supervisor([[steady(here / "journal", "a")]], here, lambda _: io.StringIO()).start()
    await asyncio.sleep(60)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await until(lambda: read_state(tmp_path).get("a", {}).get("state") == "ready")
    pid = read_state(tmp_path)["a"]["pid"]

    process.kill()
    await process.wait()

    await until(lambda: not alive(pid))


def test_a_directory_is_held_by_one_supervisor(tmp_path: Path) -> None:
    """Ours: a second start on the same directory is told who holds it."""
    with hold_lock(tmp_path), pytest.raises(UserError, match=str(os.getpid())), hold_lock(tmp_path):
        pass
    with hold_lock(tmp_path):
        pass


async def test_a_part_that_cannot_be_started_again_at_once_is_tried_until_it_can(tmp_path: Path) -> None:
    """Ours: a restart that fails (its port taken, the disk full) is one more reason to try again, visibly."""
    journal = tmp_path / "journal"
    good = steady(journal, "a")
    failures = iter([None, UserError("port 1 is busy"), OSError(28, "No space left on device")])

    def prepare() -> tuple[str, ...]:
        if (failure := next(failures, None)) is not None:
            raise failure
        return tuple(good.prepare())

    states: list[tuple[str, str]] = []
    part = RunningPart(
        PartSpec("a", prepare, good.probe), lambda state: states.append((state.state, state.why)), io.StringIO()
    )
    await part.start()
    watching = asyncio.create_task(part.watch())
    try:
        os.kill(part.state.pid, signal.SIGKILL)
        await until(lambda: part.state.state == "ready" and part.state.restarts == 3)
    finally:
        await part.stop()
        await watching

    reasons = [why for state, why in states if state == "restarting"]
    assert "SIGKILL" in reasons[0]
    assert reasons[1] == "port 1 is busy"
    assert "No space left" in reasons[2]


async def test_a_state_that_cannot_be_written_does_not_stop_the_supervision(tmp_path: Path) -> None:
    """Ours: supervisor.json is for `health`; a full disk must not keep a part from being started or stopped."""
    journal, run_dir = tmp_path / "journal", tmp_path / "run"
    run_dir.mkdir()
    supervisor = Supervisor([[steady(journal, "a")]], run_dir, lambda _: io.StringIO())
    (run_dir / "supervisor.json").mkdir()  # a rename onto a directory fails

    await supervisor.start()
    (run_dir / "supervisor.json").rmdir()
    await supervisor.stop()

    assert journal.read_text() == "start a\nstop a\n"
