"""Recorded decisions, decided again under another policy. Pure: journal lines in, outcomes out.

Only what policy decided is decided again; a call that was refused before
policy was asked stays as it was. Where a condition decides, the arguments
must be known: those of calls without any are (their digest says so), those of
calls that were executed are recorded by the bridge, sanitized, and those of
calls that were refused, or stopped by a limit behind the decision, are not
recorded at all. What cannot be known is not guessed;
but a record tells of the conditions of its own policy which held and which did
not, and where the candidate has one of these, that is known.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

import msgspec

from authz_service.policy import PolicyError, Rule, parse
from authz_service.steps.policy import judge_all
from authz_service.workbench.book import Book
from authz_service.workbench.recorded import Known, known_arguments
from authz_service.workbench.weigh import Counts, counts, possible_verdicts
from secure_mcp_grpc.calls import McpCall

__all__ = ["ArgumentsOf", "Flip", "Replay", "Undecided"]

DECIDED_BY_POLICY: Final = frozenset({"permitted", "not_permitted", "denied_by_rule"})
_MOST_GROUPS: Final = 10_000


class Recorded(msgspec.Struct, frozen=True):
    """What a replay needs of a decision's record (`records.DecisionRecord`)."""

    chain: str
    seq: int
    ts: str
    kind: str = "decision"
    decision: str = ""
    reason: str = ""
    rule: str = ""
    policy_version: str = ""
    identity: str = ""
    user: str = ""
    user_roles: tuple[str, ...] = ()
    token_roles: tuple[str, ...] | None = None
    """None in records from before this was recorded."""
    method: str = ""
    tool: str = ""
    args_digest: str = ""
    request_id: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.chain, self.seq

    @property
    def given_roles(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Roles that the token gave, and roles of which that is not known."""
        return ((), self.user_roles) if self.token_roles is None else (self.token_roles, ())

    @property
    def workload(self) -> str | None:
        """Without a certificate a record's identity is its user."""
        return self.identity if self.identity and self.identity != self.user else None


@dataclass(frozen=True, slots=True)
class Flip:
    """A call that the candidate policy decides the other way."""

    call: Recorded
    allowed: bool
    """The candidate's verdict."""
    rule: str
    """Its rules, as written; "" where no rule allows it, or where several may."""

    @property
    def verdict(self) -> str:
        """`allow by p, …`, `deny: no rule allows it`."""
        if self.rule:
            return f"{'allow' if self.allowed else 'deny'} by {self.rule}"
        return "allow" if self.allowed else "deny: no rule allows it"


@dataclass(frozen=True, slots=True)
class Undecided:
    """A call whose verdict depends on what was not recorded."""

    call: Recorded
    why: str


Outcome = Flip | Undecided
ArgumentsOf = Callable[[Sequence[tuple[str, int, datetime]]], Mapping[tuple[str, int], str]]
"""Sanitized arguments by (chain, number) of the decisions named by chain, number and time."""
Group = tuple[str, str, str, str, str]
"""Identity, user, method, tool, and what became of it: `allow → deny`, `deny → allow` or `undecided`."""


@dataclass
class Replay:
    """Decides again under `book`, block by block; the counts grow with what `outcomes` has given."""

    book: Book
    arguments_of: ArgumentsOf
    before: Book | None = None
    """The policy that decided, as far as known: it speaks for the records with its version only."""
    read: int = 0
    """Records, those that came twice included."""
    same: int = 0
    flips: int = 0
    undecided: int = 0
    untouched: int = 0
    """Refused before policy was asked, or not a decision on a call."""
    unreadable: int = 0
    groups: Counter[Group] = field(default_factory=Counter)
    """Flips and undecided calls; beyond 10,000 groups the rest is counted under empty names."""
    _last: tuple[str, int] = ("", 0)

    def __post_init__(self) -> None:
        self._rules = lru_cache(8192)(self._find_rules)

    def outcomes(self, lines: Iterable[str]) -> Iterator[Outcome]:
        """What is not the same under the candidate, of one block of journal lines, in order."""
        calls = list(self._calls(lines))
        verdicts = [self._judge(call, known_arguments("", call.args_digest)) for call in calls]
        unsure = [call for call, verdict in zip(calls, verdicts, strict=True) if isinstance(verdict, Undecided)]
        executed = [call for call in unsure if call.decision == "allow"]
        texts = self.arguments_of([(call.chain, call.seq, datetime.fromisoformat(call.ts)) for call in executed])
        for call, first in zip(calls, verdicts, strict=True):
            verdict = first
            if isinstance(first, Undecided) and call.key in texts:
                verdict = self._judge(call, known_arguments(texts[call.key], call.args_digest))
            if verdict is None:
                self.same += 1
            else:
                self._count(verdict)
                yield verdict

    def _calls(self, lines: Iterable[str]) -> Iterator[Recorded]:
        for line in lines:
            self.read += 1
            try:
                call = _DECODER.decode(line)
                datetime.fromisoformat(call.ts)
            except (msgspec.MsgspecError, ValueError):
                self.unreadable += 1
                continue
            if call.key == self._last:
                self.read -= 1  # the sink may store a record twice
                continue
            self._last = call.key
            if call.kind == "decision" and call.reason in DECIDED_BY_POLICY and (call.identity or call.user):
                yield call
            else:
                self.untouched += 1

    def _judge(self, call: Recorded, known: Known) -> Outcome | None:
        """None where the candidate decides as it was decided."""
        token_roles, old_roles = call.given_roles
        workload, user = call.workload, call.user or None
        matching = []
        if workload is not None:
            matching.append(self._matching(call, workload, (), ()))
        if user is not None:
            matching.append(self._matching(call, user, token_roles, old_roles))
        certain = known.complete or not any(self._is_conditional(rule) for rules, _ in matching for rule in rules)
        if certain and not old_roles:
            asked = McpCall(call.method, call.tool, known.arguments)
            rulings = [ruling for _, ruling in judge_all(self.book.policy, workload, user, token_roles, asked)]
            refusing = [ruling for ruling in rulings if not ruling.allowed]
            return _outcome(call, not refusing, "; ".join(ruling.rule for ruling in refusing or rulings if ruling.rule))
        judged = [(rules, self._how(call, known, lines)) for rules, lines in matching]
        verdicts = [possible_verdicts(rules, how) for rules, how in judged]
        if frozenset({False}) in verdicts:
            return _outcome(call, False, "; ".join(filter(None, (_certain_deny(*one) for one in judged))))
        if all(verdict == {True} for verdict in verdicts):
            return _outcome(call, True, "")
        # The same policy decided the same call: nothing needs to be known.
        return None if call.policy_version == self.book.policy.version else Undecided(call, _why(known))

    def _matching(
        self, call: Recorded, subject: str, roles: tuple[str, ...], old_roles: tuple[str, ...]
    ) -> tuple[list[Rule], frozenset[int]]:
        """The rules on the call that `subject` may have, and the lines of those that it has.

        `old_roles` are roles that it had from its token or from the policy of then.
        """
        held = self._rules(subject, call.method, call.tool, roles)
        lines = frozenset(rule.line for rule in held)
        return (self._rules(subject, call.method, call.tool, (*roles, *old_roles)) if old_roles else held), lines

    def _find_rules(self, subject: str, method: str, name: str, roles: tuple[str, ...]) -> list[Rule]:
        return [held.rule for held in self.book.matching(subject, method, name, roles)]

    def _is_conditional(self, rule: Rule) -> bool:
        return rule.condition is not None or bool(self.book.extras)

    def _how(self, call: Recorded, known: Known, lines: frozenset[int]) -> Callable[[Rule], Counts]:
        applied, refuted = _conditions_applied(call.rule), self._conditions_refuted(call)

        def how(rule: Rule) -> Counts:
            if self.book.extras:  # only the engine can tell, and only of whole arguments
                return Counts.PERHAPS
            counted = counts(rule, known)
            if counted is Counts.PERHAPS and (rule.eft, rule.cond) in applied:
                counted = Counts.YES  # the call's own record says so
            elif counted is Counts.PERHAPS and (rule.eft, rule.cond) in refuted:
                counted = Counts.NO
            return Counts.PERHAPS if counted is Counts.YES and rule.line not in lines else counted

        return how

    def _conditions_refuted(self, call: Recorded) -> frozenset[tuple[str, str]]:
        """Effect and condition of rules that spoke of the call and, as its verdict shows, did not count."""
        before = self.before
        if before is None or before.policy.version != call.policy_version or before.extras:
            return frozenset()
        token_roles, old_roles = call.given_roles
        subjects = [(call.workload, ()), (call.user or None, token_roles)]
        asked = [(subject, roles) for subject, roles in subjects if subject is not None]
        # Of two subjects it is not recorded which one was refused.
        if old_roles or (call.decision != "allow" and (call.reason != "not_permitted" or len(asked) > 1)):
            return frozenset()
        held = [one for subject, roles in asked for one in before.matching(subject, call.method, call.tool, roles)]
        silent = (one.rule for one in held if call.decision != "allow" or not one.rule.allows)
        return frozenset((rule.eft, rule.cond) for rule in silent)

    def _count(self, outcome: Outcome) -> None:
        call = outcome.call
        if isinstance(outcome, Flip):
            self.flips += 1
            what = "deny → allow" if outcome.allowed else "allow → deny"
        else:
            self.undecided += 1
            what = "undecided"
        group = (call.identity, call.user, call.method, call.tool, what)
        if group not in self.groups and len(self.groups) >= _MOST_GROUPS:
            group = ("", "", "", "", what)
        self.groups[group] += 1


def _outcome(call: Recorded, allowed: bool, rule: str) -> Flip | None:
    return None if allowed == (call.decision == "allow") else Flip(call, allowed, rule)


def _certain_deny(rules: Iterable[Rule], how: Callable[[Rule], Counts]) -> str:
    """A rule that certainly denies, as written; "" where there is none."""
    return next((rule.text for rule in rules if not rule.allows and how(rule) is Counts.YES), "")


def _why(known: Known) -> str:
    if known.complete:
        return "depends on which roles its token gave, which was not recorded"
    return "depends on arguments that were not recorded"


@lru_cache(4096)
def _conditions_applied(recorded_rule: str) -> frozenset[tuple[str, str]]:
    """Effect and condition of the rules that decided, as the record has them: for that call, they counted."""
    found = set()
    for text in (recorded_rule, *recorded_rule.split("; p,")):
        try:
            rules = parse((text if text.startswith("p,") else f"p,{text}").encode(), "record").rules
        except PolicyError:
            continue
        found |= {(rule.eft, rule.cond) for rule in rules}
    return frozenset(found)


_DECODER: Final = msgspec.json.Decoder(Recorded)
