"""Policy: decisions beside plain Casbin, loading, and what a reload does to the event loop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import casbin
from casbin.rbac.default_role_manager import RoleManager
from casbin.util.log import disabled_logging
from rich.console import Console
from rich.table import Table

from authz_service.policy import Policy, load_policy, parse, wildcard
from authz_service.policy.arguments import Arg
from authz_service.policy.conditions import CASBIN_FUNCTIONS
from authz_service.policy.settings import PolicySettings
from authz_service.reload import PolicyFiles

SIZES = (10, 100, 1_000, 10_000)
LOADED_SIZES = (10_000, 100_000)
MODEL: Path = PolicySettings.model_fields["model_file"].default
ARGUMENTS = {"limit": 5}
_SPENT_S = 0.3
"""About how long each figure is measured."""


def policy_text(rules: int) -> bytes:
    """`rules` rules, wildcards, conditions and denies among them, over roles that inherit in chains of twelve."""
    roles = max(2, rules // 20)
    kinds = (
        *("tools/call, tool_{0}, allow",) * 6,
        "tools/call, group_{0}_*, allow",
        "resources/read, file:///srv/{0}/*, allow",
        "tools/call, query_{0}, allow, args.limit <= {0}",
        "tools/call, drop_{0}, deny",
    )
    lines = [f"p, role:team-{n % roles}, {kinds[n % 10].format(n)}" for n in range(rules)]
    lines += [f"g, model-{n}, role:team-{n}" for n in range(roles)]
    lines += [f"g, role:team-{n}, role:team-{n + 1}" for n in range(roles - 1) if n % 12]
    return "\n".join(lines).encode()


def run() -> None:
    disabled_logging()
    console = Console(width=120)
    console.print(_decisions())
    console.print(_loading())


def _decisions() -> Table:
    table = Table(
        "rules",
        "Casbin",
        "Casbin with eval(p.cond)",
        "new",
        "repeated",
        "conditional, repeated",
        title="One decision, µs (median)",
    )
    for size in SIZES:
        text = policy_text(size)
        ours = _load(text)
        request = ("model-0", "tools/call", f"tool_{size - size % 10 - 10}")
        conditional = (f"model-{8 % max(2, size // 20)}", "tools/call", "query_8", ARGUMENTS)
        names = cycle([f"tool_{n}" for n in range(50_000)])
        table.add_row(
            f"{size:,}",
            *(f"{_microseconds(call):,.1f}" for call in (_plain(text, request), _plain(text, (*request, ARGUMENTS)))),
            f"{_microseconds(lambda ours=ours, names=names: ours.judge('model-1', 'tools/call', next(names))):.1f}",
            *(
                f"{_microseconds(lambda ours=ours, args=args: ours.judge(*args)):.2f}"
                for args in (request, conditional)
            ),
        )
    return table


def _plain(text: bytes, request: tuple[Any, ...]) -> Callable[[], bool]:
    """Casbin over the same rules; with arguments also the conditions, without them the rules as if they had none."""
    with_conditions = len(request) == 4
    model = MODEL.read_text()
    if not with_conditions:
        model = model.replace(", args\n", "\n").replace(", cond\n", "\n").replace(" && eval(p.cond)", "")
    enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=model))
    enforcer.set_role_manager(RoleManager(20))
    for name, function in {**CASBIN_FUNCTIONS, "wildcard": wildcard}.items():
        enforcer.add_function(name, function)
    rules = parse(text, "policy.csv")
    enforcer.model["p"]["p"].policy = [
        [*rule.fields[:4], rule.condition.casbin if rule.condition else "True"][: 4 + with_conditions]
        for rule in rules.rules
    ]
    enforcer.model["g"]["g"].policy = [[one.member, one.role] for one in rules.groupings]
    enforcer.build_role_links()
    values = (*request[:3], Arg(request[3])) if with_conditions else request
    return lambda: bool(enforcer.enforce(*values))


def _loading() -> Table:
    table = Table(
        "rules",
        "at start, s",
        "reload beside requests, s",
        "longest wait of the event loop meanwhile, ms",
        "p50, ms",
        "letting the old one go, ms",
        title="Loading (median of 3)",
    )
    for size in LOADED_SIZES:
        text = policy_text(size)
        start = median(_seconds(lambda text=text: _load(text)) for _ in range(3))
        runs = [asyncio.run(_reload(text)) for _ in range(3)]
        figures = [median(run[column] for run in runs) for column in range(4)]
        table.add_row(f"{size:,}", f"{start:.2f}", f"{figures[0]:.2f}", *(f"{one * 1e3:.1f}" for one in figures[1:]))
    return table


async def _reload(text: bytes) -> tuple[float, float, float, float]:
    """Seconds: reload, longest and median wait of a task that wants to run all the time, release of the policy."""
    waits: list[float] = []

    async def turn() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0)
            waits.append(time.perf_counter() - started)

    files = PolicyFiles(MODEL, Path("policy.csv"), 4096)
    async with asyncio.TaskGroup() as group:
        turning = group.create_task(turn())
        started = time.perf_counter()
        policy = await asyncio.to_thread(files.load_beside, (MODEL.read_bytes(), text))
        took = time.perf_counter() - started
        turning.cancel()
    started = time.perf_counter()
    del policy
    return took, max(waits), median(waits), time.perf_counter() - started


def _load(text: bytes) -> Policy:
    return load_policy(MODEL.read_bytes(), text, model_name="model.conf", policy_name="policy.csv", cached=4096)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _microseconds(call: Callable[[], object]) -> float:
    """Median over batches of `call`."""
    first = _seconds(call)
    count = max(1, min(2_000, int(_SPENT_S / 15 / max(first, 1e-7))))
    batches = max(1, min(15, int(_SPENT_S / max(first * count, 1e-7))))
    return median(_batch(call, range(count)) for _ in range(batches)) * 1e6


def _batch(call: Callable[[], object], numbers: Sequence[int]) -> float:
    started = time.perf_counter()
    for _ in numbers:
        call()
    return (time.perf_counter() - started) / len(numbers)


if __name__ == "__main__":
    run()
