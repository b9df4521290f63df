"""The decision as an ordered chain of steps: the first that refuses names the reason.

Every step may refuse; only the policy step permits. A chain that reaches its
end without a permission refuses, so no order and no extension can allow what
policy does not.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from importlib.metadata import entry_points
from typing import Final, Protocol

from authz_service.case import Case
from authz_service.verdict import FAULT, TIMEOUT, Allow, Deny
from secure_mcp_grpc.errors import UserError

__all__ = ["BUILT_IN", "GROUP", "Pipeline", "Step", "arrange"]

GROUP: Final = "secure_mcp_grpc.decision_steps"
"""Entry point group of further steps: each a callable without parameters that returns a `Step`."""

BUILT_IN: Final = ("identity", "revocation", "quarantine", "quota", "policy")
"""Names in the setting `steps`, in their default order."""


class Step(Protocol):
    """One question that a request must pass."""

    def judge(self, case: Case) -> Deny | Awaitable[Deny | None] | None:
        """A refusal, or None to go on. Answer at once where nothing has to be waited for. An exception refuses."""


class Pipeline:
    """Runs `steps` in order, within `timeout_s` seconds where one has to wait."""

    def __init__(self, steps: Sequence[Step], *, timeout_s: float) -> None:
        self._judges = tuple(step.judge for step in steps)
        self._timeout_s = timeout_s

    def run(self, case: Case) -> Allow | Deny | Awaitable[Allow | Deny]:
        """The verdict on `case`, at once if no step has to wait."""
        for number, judge in enumerate(self._judges, 1):
            outcome = judge(case)
            if outcome is None:
                continue
            if isinstance(outcome, Deny):
                return outcome
            return self._finish(case, outcome, number)
        return _end(case)

    async def _finish(self, case: Case, waiting: Awaitable[Deny | None], number: int) -> Allow | Deny:
        """The rest of the chain, from the step before `number` on, which is `waiting`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                refusal = await waiting
                for judge in self._judges[number:]:
                    if refusal is not None:
                        break
                    outcome = judge(case)
                    refusal = outcome if outcome is None or isinstance(outcome, Deny) else await outcome
        except TimeoutError:
            return TIMEOUT
        return refusal if refusal is not None else _end(case)


def _end(case: Case) -> Allow | Deny:
    """Nobody refused; that alone permits nothing."""
    return case.permit if isinstance(case.permit, Allow) else FAULT


def arrange(names: Sequence[str], built_in: dict[str, Sequence[Step]]) -> list[Step]:
    """The steps called `names`; raises `UserError` for a chain that would leave one out or cannot be built.

    A built-in name may stand for several steps. All of them must be named,
    `identity` first: the others judge what it finds.
    """
    if missing := [name for name in built_in if name not in names]:
        raise UserError(f"steps leaves out {missing[0]}; a chain names all of {', '.join(built_in)}")
    if len(set(names)) != len(names):
        raise UserError("steps names a step twice")
    if names[0] != "identity":
        raise UserError("steps must begin with identity: the others judge what it finds")
    steps: list[Step] = []
    for name in names:
        steps += built_in[name] if name in built_in else [_load(name)]
    return steps


def _load(name: str) -> Step:
    found = entry_points(group=GROUP, name=name)
    if len(found) != 1:
        what = "several packages provide" if found else "no installed package provides"
        raise UserError(f"steps: {what} the step {name!r} (entry point group {GROUP})")
    try:
        step: Step = next(iter(found)).load()()
    except Exception as error:  # the package's own code: whatever it raises, the service must not start without it
        raise UserError(f"steps: the step {name!r} cannot be loaded: {type(error).__name__}") from error
    return step
