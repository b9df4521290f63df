"""Casbin policy: read (`file`, `model`), checked (`lint`), and answered (`engine`)."""

from authz_service.policy.catalog import Catalog, read_catalog
from authz_service.policy.conditions import Condition, ConditionError, read_condition
from authz_service.policy.engine import Policy, Ruling, Trace
from authz_service.policy.file import Grouping, Rule, Rules, parse
from authz_service.policy.lint import Checks, lint
from authz_service.policy.load import load_policy
from authz_service.policy.model import read_model
from authz_service.policy.patterns import covers, overlap, wildcard
from authz_service.policy.problems import PolicyError, Problem

__all__ = [
    "Catalog",
    "Checks",
    "Condition",
    "ConditionError",
    "Grouping",
    "Policy",
    "PolicyError",
    "Problem",
    "Rule",
    "Rules",
    "Ruling",
    "Trace",
    "covers",
    "lint",
    "load_policy",
    "overlap",
    "parse",
    "read_catalog",
    "read_condition",
    "read_model",
    "wildcard",
]
