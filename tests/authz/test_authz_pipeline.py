"""The decision as a chain of steps: order, waiting, extensions, and that nothing but policy permits."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from authz_requests import POLICY, Answered, answered, check_request, policy_of, records
from prometheus_client import CollectorRegistry

from authz_service.case import Case
from authz_service.checker import Checker
from authz_service.identity import IdentityReader
from authz_service.journal import Journal
from authz_service.metrics import Metrics
from authz_service.pipeline import BUILT_IN, GROUP, Pipeline, Step, arrange
from authz_service.steps.identity import IdentityStep
from authz_service.steps.message import MessageStep
from authz_service.steps.policy import PolicyStep
from authz_service.verdict import FAULT, TIMEOUT, Allow, Code, Deny
from secure_mcp_grpc.errors import UserError

NO = Deny(Code.PERMISSION_DENIED, "refused_by_extension", "not on Sundays")


class Asked:
    """A step that notes that it was asked, and answers as it is told."""

    def __init__(self, name: str, seen: list[str], answer: Callable[[Case], Any] = lambda _: None) -> None:
        self._name, self._seen, self._answer = name, seen, answer

    def judge(self, case: Case) -> Any:
        self._seen.append(self._name)
        return self._answer(case)


def permit(case: Case) -> None:
    case.permit = Allow("p, …")


async def later(outcome: Deny | None) -> Deny | None:
    await asyncio.sleep(0)
    return outcome


async def verdict(*steps: Step, timeout_s: float = 1) -> Allow | Deny:
    found = Pipeline(steps, timeout_s=timeout_s).run(Case(None, 0.0, policy_of(b"")))
    return found if isinstance(found, Allow | Deny) else await found


@pytest.mark.parametrize("waits", [0, 1, 2], ids=["none waits", "the first waits", "the second waits"])
async def test_first_refusal_decides_and_nobody_is_asked_after_it(waits: int) -> None:
    """Issue 3: an ordered chain; a step that waits changes nothing about the order."""
    seen: list[str] = []
    first = Asked("first", seen, (lambda _: later(None)) if waits == 1 else (lambda _: None))
    second = Asked("second", seen, (lambda _: later(NO)) if waits == 2 else (lambda _: NO))

    assert await verdict(first, second, Asked("policy", seen, permit)) is NO
    assert seen == ["first", "second"]


@pytest.mark.parametrize("waiting", [False, True])
async def test_chain_that_reaches_its_end_permits_only_what_policy_permitted(waiting: bool) -> None:
    """Ours: nothing starts out allowed."""
    seen: list[str] = []
    idle = Asked("idle", seen, (lambda _: later(None)) if waiting else (lambda _: None))

    assert await verdict(idle) is FAULT
    assert await verdict(idle, Asked("policy", seen, permit)) == Allow("p, …")


async def test_step_that_never_answers_is_a_refusal_in_time() -> None:
    """Issue 3: a dependency that hangs; the answer comes in bounded time."""
    never = Asked("never", [], lambda _: asyncio.Event().wait())

    assert await verdict(never, Asked("policy", [], permit), timeout_s=0.01) is TIMEOUT


@pytest.mark.parametrize("answer", [Allow("mine"), True, "yes", 1], ids=repr)
async def test_extension_cannot_permit(answer: Any, journal: Journal) -> None:
    """Ours: a step that answers anything but a refusal is a bug, and a bug denies; without policy, too."""
    extension = Asked("extension", [], lambda _: answer)
    for steps in ((extension,), (extension, Asked("policy", [], permit))):
        checker = Checker(policy_of(b""), Pipeline(steps, timeout_s=1), journal, Metrics(CollectorRegistry()))
        response = checker.check(check_request().SerializeToString())

        assert answered(response if isinstance(response, bytes) else await response).code == Code.INTERNAL


async def test_reason_that_nobody_knows_is_recorded_as_an_extension_s(journal: Journal, tmp_path: Path) -> None:
    """Ours: reasons are a closed list in records and metrics; an extension's own word must not break the answer."""
    extension = Asked("extension", [], lambda _: Deny(Code.PERMISSION_DENIED, "sunday", "not on Sundays"))  # type: ignore[arg-type]
    metrics = Metrics(CollectorRegistry())
    checker = Checker(policy_of(b""), Pipeline([extension], timeout_s=1), journal, metrics)

    response = checker.check(check_request().SerializeToString())

    assert isinstance(response, bytes)
    assert answered(response).headers["grpc-message"] == "not on Sundays"
    assert records(tmp_path / "journal")[-1]["reason"] == "refused_by_extension"


def built_in() -> dict[str, tuple[Step, ...]]:
    steps: dict[str, tuple[Step, ...]] = {name: (Asked(name, []),) for name in BUILT_IN}
    steps["identity"] = (IdentityStep("mtls", IdentityReader(["mcp.internal"], 16), ()), MessageStep(1_000_000))
    steps["policy"] = (PolicyStep(),)
    return steps


def test_built_in_steps_may_change_places() -> None:
    """Issue 3: a deployment may reorder."""
    steps = built_in()

    arranged = arrange(["identity", "quota", "quarantine", "revocation", "policy"], steps)

    assert arranged == [
        *steps["identity"],
        *steps["quota"],
        *steps["quarantine"],
        *steps["revocation"],
        *steps["policy"],
    ]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "leaves out identity"),
        (["identity", "revocation", "quarantine", "quota"], "leaves out policy"),
        (["identity", "quarantine", "quota", "policy"], "leaves out revocation"),
        ([*BUILT_IN, "policy"], "names a step twice"),
        (["revocation", "identity", "quarantine", "quota", "policy"], "must begin with identity"),
        ([*BUILT_IN, "unheard-of"], "no installed package provides the step 'unheard-of'"),
    ],
)
def test_chain_that_would_judge_less_does_not_start(names: list[str], sentence: str) -> None:
    """Ours: a name left out would be a check left out."""
    with pytest.raises(UserError, match=sentence):
        arrange(names, built_in())


SUNDAY = """
from authz_service.verdict import Code, Deny

class Sunday:
    def judge(self, case):
        assert case.call is not None, "the message was read before"
        if case.call.name == "get_current_time":
            return Deny(Code.PERMISSION_DENIED, "refused_by_extension", "not on Sundays")

def broken():
    raise RuntimeError("no calendar")
"""


@pytest.fixture
def calendar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with two decision steps, one of which cannot be made."""
    root = tmp_path / "site"
    information = root / "calendar_steps-1.0.dist-info"
    information.mkdir(parents=True)
    (root / "calendar_steps.py").write_text(SUNDAY)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: calendar-steps\nVersion: 1.0\n")
    points = f"[{GROUP}]\nsunday = calendar_steps:Sunday\nbroken = calendar_steps:broken\n"
    (information / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(root))


@pytest.mark.usefixtures("calendar")
def test_step_of_another_package_refuses_and_is_recorded(journal: Journal, tmp_path: Path) -> None:
    """Issue 3: a deployment may extend the chain."""
    steps = arrange(["identity", "revocation", "sunday", "quarantine", "quota", "policy"], built_in())
    checker = Checker(policy_of(POLICY), Pipeline(steps, timeout_s=1), journal, Metrics(CollectorRegistry()))

    def ask(*request_of: str) -> Answered:
        response = checker.check(check_request(*request_of).SerializeToString())
        assert isinstance(response, bytes)
        return answered(response)

    refused, permitted = ask("model-a", "tools/call", "get_current_time"), ask("model-a", "tools/list", "")

    assert (refused.code, refused.headers["grpc-message"]) == (Code.PERMISSION_DENIED, "not on Sundays")
    assert permitted.code == 0
    assert [record["reason"] for record in records(tmp_path / "journal")[-2:]] == ["refused_by_extension", "permitted"]


@pytest.mark.usefixtures("calendar")
def test_step_that_cannot_be_made_stops_the_start() -> None:
    """Ours: the service must not run without a check that was asked for; the package's own words stay out of it."""
    with pytest.raises(UserError, match=r"^steps: the step 'broken' cannot be loaded: RuntimeError$"):
        arrange([*BUILT_IN, "broken"], built_in())
