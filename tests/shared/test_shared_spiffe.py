"""SPIFFE IDs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_mcp_grpc import spiffe


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        ("spiffe://example.org/model-a", ("example.org", "model-a")),
        ("spiffe://example.org/ns/default/sa/x_1.y", ("example.org", "ns/default/sa/x_1.y")),
        ("spiffe://example.org", None),
        ("spiffe://example.org/", None),
        ("spiffe://example.org/a/", None),
        ("spiffe://example.org//a", None),
        ("spiffe://example.org/a/../b", None),
        ("spiffe://example.org/./a", None),
        ("spiffe://Example.org/a", None),
        ("spiffe:///a", None),
        ("spiffe://user@example.org/a", None),
        ("spiffe://example.org:8443/a", None),
        ("spiffe://example.org/a?b", None),
        ("spiffe://example.org/a#b", None),
        ("spiffe://example.org/a%2fb", None),
        ("spiffe://example.org/role:admin", None),
        ("spiffe://example.org/a\n", None),
        ("SPIFFE://example.org/a", None),
        ("https://example.org/a", None),
        ("", None),
        (f"spiffe://example.org/{'a' * 2027}", ("example.org", "a" * 2027)),
        (f"spiffe://example.org/{'a' * 2028}", None),
        (f"spiffe://{'a' * 256}/b", None),
    ],
)
def test_only_the_id_of_a_workload_is_one(uri: str, parsed: tuple[str, str] | None) -> None:
    """SPIFFE-ID, 2.1 to 2.3."""
    assert spiffe.parse(uri) == parsed


def test_the_first_trust_domain_is_left_out_of_names() -> None:
    """Ours: short names at home, whole IDs for the rest of a federation."""
    domains = ["home.org", "other.org"]
    assert spiffe.subject("spiffe://home.org/a/b", domains) == "a/b"
    assert spiffe.subject("spiffe://other.org/a/b", domains) == "spiffe://other.org/a/b"
    assert spiffe.subject("not an id", domains) == "not an id"


@given(st.text(max_size=60))
def test_no_workload_has_the_name_of_a_role(path: str) -> None:
    """Ours: nobody is born with a role."""
    assert not spiffe.subject(f"spiffe://home.org/{path}", ["home.org"]).startswith("role:")
