"""The policy in force: Casbin's answer to (subject, method, name), which rule gave it, and which roles were seen.

A `Policy` never changes; a reload makes a new one and swaps it in whole.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import casbin
import simpleeval  # type: ignore[import-untyped] # has no types
from casbin.persist import Adapter
from casbin.rbac.default_role_manager import RoleManager
from casbin.util.log import disabled_logging

from authz_service.policy_file import PolicyError, Rules, parse

__all__ = ["Policy", "Ruling", "load_policy", "wildcard"]

_REQUEST: Final = ["r_sub", "r_method", "r_name"]
_RULE: Final = ["p_sub", "p_method", "p_name", "p_eft"]
_DENY_OVERRIDES: Final = "some(where (p_eft == allow)) && !some(where (p_eft == deny))"
_ANY_ALLOWS: Final = "some(where (p_eft == allow))"
_NO_ARGUMENTS: Final[Mapping[str, Any]] = {}
_CALL: Final = re.compile(r"([A-Za-z_]\w*)\s*\(")
_LONGEST_REMEMBERED_NAME: Final = 256
# What Casbin and simpleeval raise for a model or matcher that is not one.
_MODEL_ERRORS: Final = (
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    simpleeval.InvalidExpression,
)


@dataclass(frozen=True, slots=True)
class Ruling:
    """One answer. `rule` is the line that decided, as written ("" where none matched)."""

    allowed: bool
    rule: str
    line: int
    roles: tuple[str, ...]
    """Every role of the subject, inherited ones included, sorted."""


class Policy:
    """Answers from one model and one set of rules."""

    def __init__(self, model: str, rules: Rules, version: str, *, cached: int) -> None:
        self.version = version
        """Short hash of model and policy."""
        self.size = len(rules.rules)
        self._lines = {rule.fields: rule for rule in reversed(rules.rules)}
        self._deny_overrides = _enforcer(model, rules, _DENY_OVERRIDES)
        # Casbin names the rule behind a refusal but not the one behind a permission: the same model, asked for
        # any rule that allows, does.
        self._any_allows = _enforcer(model, rules, _ANY_ALLOWS)
        self._remembered = lru_cache(cached)(self._rule_on)
        self._roles = lru_cache(cached)(self._roles_of)

    def judge(
        self,
        subject: str,
        method: str,
        name: str,
        arguments: Mapping[str, Any] = _NO_ARGUMENTS,
        roles: Sequence[str] = (),
    ) -> Ruling:
        """Whether `subject`, who also has `roles`, may use `method` on `name` with `arguments`."""
        # Long names are judged each time: remembering them would let a client fill the memory.
        return (self._remembered if len(name) <= _LONGEST_REMEMBERED_NAME else self._rule_on)(subject, method, name)

    def _rule_on(self, subject: str, method: str, name: str) -> Ruling:
        roles = self._roles(subject)
        if not self.size:  # Casbin evaluates the matcher against empty fields then; no rule must mean no.
            return Ruling(False, "", 0, roles)
        allowed, matched = self._deny_overrides.enforce_ex(subject, method, name)
        if allowed:
            also, matched = self._any_allows.enforce_ex(subject, method, name)
            allowed = bool(also and matched)
        rule = self._lines.get(tuple(matched)) if matched else None
        return Ruling(bool(allowed), rule.text if rule else "", rule.line if rule else 0, roles)

    def _roles_of(self, subject: str) -> tuple[str, ...]:
        return tuple(sorted(self._deny_overrides.get_implicit_roles_for_user(subject)))


def load_policy(model: bytes, policy: bytes, *, model_name: str, policy_name: str, cached: int) -> Policy:
    """A policy from the contents of its two files; raises `PolicyError` naming the file and line that is wrong."""
    rules = parse(policy, policy_name)
    disabled_logging()  # Casbin would log every request, and the whole policy
    try:
        text = model.decode()
        _check_model(text)
        version = hashlib.sha256(hashlib.sha256(model).digest() + hashlib.sha256(policy).digest()).hexdigest()[:16]
        loaded = Policy(text, rules, version, cached=cached)
        loaded.judge("probe", "probe", "probe")  # a matcher that cannot be evaluated shows here, not at a request
    except PolicyError as error:
        raise PolicyError(f"{model_name}: {error}") from None
    except UnicodeDecodeError:
        raise PolicyError(f"{model_name}: the text is not UTF-8") from None
    except _MODEL_ERRORS as error:
        raise PolicyError(f"{model_name}: Casbin does not accept this model ({type(error).__name__})") from None
    return loaded


def wildcard(text: str, pattern: str) -> bool:
    """Whether `text` is `pattern`, where `*` stands for any characters, also none. Linear in time, unlike a regex."""
    if "*" not in pattern:
        return text == pattern
    head, *middle, tail = pattern.split("*")
    if len(text) < len(head) + len(tail) or not text.startswith(head) or not text.endswith(tail):
        return False
    position, end = len(head), len(text) - len(tail)
    for part in middle:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


def _check_model(text: str) -> None:
    model = casbin.Enforcer.new_model(text=text)
    if model["r"]["r"].tokens != _REQUEST or model["p"]["p"].tokens != _RULE:
        raise PolicyError("a request must be `sub, method, name` and a policy rule `sub, method, name, eft`")
    if model["e"]["e"].value != _DENY_OVERRIDES:
        raise PolicyError("the policy effect must be `some(where (p.eft == allow)) && !some(where (p.eft == deny))`")


def _enforcer(model: str, rules: Rules, effect: str) -> Any:
    parsed = casbin.Enforcer.new_model(text=model)
    parsed["e"]["e"].value = effect
    enforcer = casbin.Enforcer(parsed)
    enforcer.add_function("wildcard", wildcard)
    known = {*enforcer.fm.get_functions(), *parsed["g"]}
    if unknown := sorted(set(_CALL.findall(parsed["m"]["m"].value)) - known):
        raise PolicyError(f"the matcher calls {unknown[0]}, which does not exist")
    # Casbin stops at ten levels of roles otherwise and would overlook a deny above them.
    enforcer.set_role_manager(RoleManager(max_hierarchy_level=len(rules.groupings) + 2))
    enforcer.set_adapter(_RulesAdapter(rules))
    enforcer.load_policy()
    return enforcer


class _RulesAdapter(Adapter):  # type: ignore[misc] # casbin has no types
    """Hands rules that are already read to Casbin."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def load_policy(self, model: Any) -> None:
        _extend(model, "p", [rule.fields for rule in self._rules.rules])
        _extend(model, "g", [(grouping.member, grouping.role) for grouping in self._rules.groupings])


def _extend(model: Any, section: str, lines: Sequence[tuple[str, ...]]) -> None:
    model[section][section].policy.extend(list(line) for line in dict.fromkeys(lines))
