"""Subjects and roles between authz_service and the bridge come out as they went in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_bridge.execute import caller_of
from secure_mcp_grpc import headers

_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(value=_NAMES)
def test_values_survive_as_visible_ascii(value: str) -> None:
    """Ours: two identities never share a header, and none holds what a header cannot."""
    written = headers.encode_value(value)

    assert all("!" <= character <= "~" for character in written)
    assert headers.decode_value(written) == value


@given(values=st.lists(_NAMES, max_size=5))
def test_lists_survive(values: list[str]) -> None:
    """Ours: a comma within a role makes no second role."""
    assert headers.decode_list(headers.encode_list(values)) == tuple(values)


@pytest.mark.parametrize("plain", ["model-a", "spiffe://other/ns/x", "user:corp:auth0|abc", "role:reader"])
def test_plain_names_are_written_as_they_are(plain: str) -> None:
    """Ours: people read these in access logs."""
    assert headers.encode_value(plain) == plain


def test_caller_is_read_as_authz_wrote_it() -> None:
    """Ours: `%61` in a token's `sub` is not the letter a, and `role:a,role:admin` is one odd role."""
    sent = (
        (headers.SUBJECT, headers.encode_value("model-ä")),
        (headers.USER, headers.encode_value("user:corp:%61lice")),
        (headers.USER_ROLES, headers.encode_list(["role:a,role:admin", "role:b"])),
    )
    caller = caller_of(sent)

    assert (caller.subject, caller.user) == ("model-ä", "user:corp:%61lice")
    assert caller.user_roles == ("role:a,role:admin", "role:b")
    assert caller_of(()).user_roles == ()
