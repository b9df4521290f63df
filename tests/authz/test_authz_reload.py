"""Policy files change while the service runs."""

import asyncio
import gc
import json
import os
from contextlib import aclosing
from pathlib import Path

import pytest
from authz_requests import MODEL
from grpc_health.v1 import health_pb2

from authz_service import service
from authz_service.policy import Policy
from authz_service.reload import PolicyFiles, PolicyWatcher
from authz_service.server import PartHealth

OLD = b"p, a, tools/call, old, allow\n"
NEW = b"p, a, tools/call, new, allow\n"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Watched:
    """A watcher over files in `directory`, looked through by hand."""

    def __init__(self, directory: Path, policy: Path, tools: Path | None = None, poll_s: float = 0.25) -> None:
        model = directory / "model.conf"
        model.write_bytes(MODEL)
        self.model, self.policy = model, policy
        files = PolicyFiles(model, policy, 10, tools)
        self.loaded: list[Policy] = []
        self.refused: list[str] = []
        self.watcher = PolicyWatcher(files, files.read(), self.loaded.append, self.refused.append, poll_s=poll_s)

    async def look(self, times: int = 3) -> None:
        for _ in range(times):
            await self.watcher.look()


@pytest.fixture
async def watched(tmp_path: Path) -> Watched:
    policy = tmp_path / "policy.csv"
    policy.write_bytes(OLD)
    watched = Watched(tmp_path, policy)
    await watched.look()
    assert not watched.loaded
    return watched


def permits_new(watched: Watched) -> bool:
    return watched.loaded[-1].judge("a", "tools/call", "new").allowed


async def test_edit_in_place_is_loaded(watched: Watched) -> None:
    """Issue 2: edit policy.csv while running; here of the same length."""
    watched.policy.write_bytes(NEW)
    await watched.look()

    assert len(watched.loaded) == 1
    assert permits_new(watched)


async def test_edit_that_keeps_the_time_of_change_is_loaded(watched: Watched) -> None:
    """Ours: content counts, not the clock."""
    status = watched.policy.stat()
    watched.policy.write_bytes(NEW)
    os.utime(watched.policy, ns=(status.st_atime_ns, status.st_mtime_ns))
    await watched.look()

    assert permits_new(watched)


async def test_rename_over_the_file_is_loaded(watched: Watched, tmp_path: Path) -> None:
    """Ours: how editors and we write files; the new one may be older."""
    other = tmp_path / "other"
    other.write_bytes(NEW)
    os.utime(other, (1, 1))
    other.rename(watched.policy)
    await watched.look()

    assert permits_new(watched)


async def test_symlink_swap_of_a_configmap_is_loaded(tmp_path: Path) -> None:
    """Kubernetes: policy.csv -> ..data/policy.csv, ..data -> ..<time>, swapped by rename."""
    for name, content in (("..1", OLD), ("..2", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.csv").write_bytes(content)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "policy.csv").symlink_to("..data/policy.csv")
    watched = Watched(tmp_path, tmp_path / "policy.csv")
    await watched.look()

    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    await watched.look()

    assert permits_new(watched)


async def test_half_written_file_is_not_loaded(watched: Watched) -> None:
    """Ours: the first half may lack the rules that deny."""
    await watched.look(1)
    every = b"p, a, tools/call, *, allow\n"
    watched.policy.write_bytes(every)
    await watched.look(1)
    watched.policy.write_bytes(every + b"p, a, tools/call, new, deny\n")
    await watched.look()

    assert len(watched.loaded) == 1
    assert not permits_new(watched)


async def test_health_follows_a_judged_file_at_once(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: whoever has read in the log that a file was refused, or loaded, hears the same from grpc.health.v1."""

    class Journal:
        available = True

        def check(self) -> None:
            return None

    monkeypatch.setattr(service, "_HEALTH_INTERVAL_S", 60)
    health = PartHealth()
    told = aclosing(health.watch("policy"))
    components = {"policy": lambda: not watched.watcher.problem}
    watching = asyncio.create_task(
        service.watch_health(Journal(), components, health, watched.watcher.judged)  # type: ignore[arg-type]
    )
    async with asyncio.timeout(10), told as statuses:
        assert [await anext(statuses), await anext(statuses)] == [None, SERVING]
        watched.policy.write_bytes(b"p, a, tools/call\n")
        await watched.look()
        assert await anext(statuses) == NOT_SERVING
        watched.policy.write_bytes(NEW)
        await watched.look()
        assert await anext(statuses) == SERVING
    watching.cancel()
    await asyncio.wait([watching])


async def test_broken_file_changes_nothing_and_is_reported_once(watched: Watched) -> None:
    """Issue 2: a broken file changes nothing and is reported."""
    watched.policy.write_bytes(OLD + b"p, a, tools/call, x, maybe\n")
    await watched.look(5)

    assert watched.refused == ["policy.csv:2: the effect is allow or deny, not 'maybe'"]
    assert watched.watcher.problem == watched.refused[0]
    assert not watched.loaded

    watched.policy.write_bytes(OLD)
    await watched.look()
    assert watched.watcher.problem == ""
    assert len(watched.loaded) == 1


async def test_missing_file_changes_nothing_and_is_reported(watched: Watched) -> None:
    """Ours: as above."""
    watched.policy.unlink()
    await watched.look()

    assert watched.refused == ["policy.csv cannot be read: No such file or directory"]


async def test_broken_model_changes_nothing_and_is_reported(watched: Watched) -> None:
    """Ours: the model is watched as well."""
    watched.model.write_bytes(MODEL.replace(b"sub, method", b"sub, thing"))
    await watched.look()

    assert watched.refused[0].startswith("model.conf: ")
    assert not watched.loaded


async def test_announced_change_is_loaded_at_once(tmp_path: Path) -> None:
    """Issue 3: a reload is announced so that every sidecar reloads; here long before the next look is due."""
    policy = tmp_path / "policy.csv"
    policy.write_bytes(OLD)
    watched = Watched(tmp_path, policy, poll_s=3600)
    in_force = asyncio.Event()
    watched.watcher.on_loaded.append(lambda policy: in_force.set())
    running = asyncio.create_task(watched.watcher.run())
    policy.write_bytes(NEW)
    watched.watcher.announced()
    async with asyncio.timeout(5):
        await in_force.wait()
    running.cancel()

    assert permits_new(watched)


async def test_new_policy_is_in_force_before_it_is_announced(watched: Watched) -> None:
    """Ours: nobody hears of a policy that may still be refused, nor of one that was."""
    seen: list[tuple[str, int]] = []
    watched.watcher.on_loaded.append(lambda policy: seen.append((policy.version, len(watched.loaded))))
    watched.policy.write_bytes(b"p, a, tools/cal, x, allow\n")
    await watched.look()
    assert seen == []

    watched.policy.write_bytes(NEW)
    await watched.look()
    assert seen == [(watched.loaded[0].version, 1)]


async def test_policy_that_the_tools_contradict_is_refused(tmp_path: Path) -> None:
    """Issue 3: a condition on an argument the tool's schema does not have; the tools are watched as well."""
    policy, tools = tmp_path / "policy.csv", tmp_path / "tools.json"
    policy.write_bytes(b"p, a, tools/call, q, allow, args.limit == 1\n")
    tools.write_text(json.dumps({"tools": [{"name": "q", "inputSchema": {"properties": {"limit": {}}}}]}))
    watched = Watched(tmp_path, policy, tools)
    await watched.look()
    tools.write_text(json.dumps({"tools": [{"name": "q", "inputSchema": {"properties": {"max": {}}}}]}))
    await watched.look()
    tools.write_text("no JSON")
    await watched.look()

    assert watched.refused == ["policy.csv:1: the tool q has no argument limit", "tools.json: this is not JSON"]
    assert not watched.loaded


async def test_loop_keeps_turning_while_many_rules_are_loaded(watched: Watched) -> None:
    """Issue 3: no request waits for a reload; the benchmark prints how long one takes and the longest wait."""
    lines = [f"p, role:r{n % 100}, tools/call, t{n}, allow, args.n <= {n}" for n in range(10_000)]
    lines += [f"g, m{n}, role:r{n}" for n in range(100)]
    watched.policy.write_bytes("\n".join(lines).encode())
    await watched.look(1)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    await watched.look(1)
    turning.cancel()

    assert watched.loaded[0].size == 10_000
    assert gc.isenabled()
    assert turns > 20  # a load that held the loop would leave it two or three
