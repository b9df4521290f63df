"""Two files into a policy, or a refusal that names file and line."""

import hashlib
from collections.abc import Callable

from authz_service.policy.engine import Policy
from authz_service.policy.file import parse
from authz_service.policy.lint import Checks, lint
from authz_service.policy.model import read_model
from authz_service.policy.problems import PolicyError

__all__ = ["load_policy"]


def load_policy(
    model: bytes,
    policy: bytes,
    *,
    model_name: str,
    policy_name: str,
    cached: int,
    checks: Checks | None = None,
    pause: Callable[[], None] = lambda: None,
) -> Policy:
    """A policy from the contents of its two files; `cached` is how many answers it remembers.

    Raises `PolicyError` with everything that is wrong: lines that are none, and
    rules that could never match by `checks` (None: what needs no knowledge of
    tools). `pause` is called often, so that a thread can let others run.
    """
    accepted = read_model(model, model_name)
    rules = parse(policy, policy_name, pause=pause)
    found = lint(rules, policy_name, checks or Checks(), overriding=not accepted.extras, pause=pause)
    if refusals := [problem for problem in found if not problem.warning]:
        raise PolicyError(*refusals)
    version = hashlib.sha256(hashlib.sha256(model).digest() + hashlib.sha256(policy).digest()).hexdigest()[:16]
    return Policy(accepted, rules, version, cached=cached, warnings=found, pause=pause)
