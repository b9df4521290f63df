"""Random policies over few subjects, names and conditions, so that their rules meet."""

from typing import Any

from hypothesis import strategies as st

SUBJECTS = ("m", "n", "role:x", "role:y")
METHODS = ("tools/call", "prompts/get", "*", "tools/*")
NAMES = ("a", "b", "ab", "a*", "*b", "*", "a*b", "*a*")
CONDITIONS = ("", "args.n <= 1", "args.n > 1", 'args.s == "x"')
ARGUMENTS: tuple[dict[str, Any], ...] = ({}, {"n": 0}, {"n": 2}, {"s": "x"}, {"n": 0, "s": "x"}, {"n": 2, "s": "y"})
CONCRETE = ("", "a", "b", "ab", "ba", "aab", "cab", "acb", "c")

rules = st.builds(
    lambda *fields: ", ".join(["p", *fields]).removesuffix(", "),
    st.sampled_from(SUBJECTS),
    st.sampled_from(METHODS),
    st.sampled_from(NAMES),
    st.sampled_from(("allow", "allow", "deny")),
    st.sampled_from(CONDITIONS),
)
groupings = st.sampled_from(("g, m, role:x", "g, n, role:x", "g, role:x, role:y", "g, n, role:y"))
lines = st.lists(st.one_of(rules, rules, groupings), max_size=8)
