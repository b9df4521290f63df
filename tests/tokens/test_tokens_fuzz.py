"""No input is accepted by mistake, and none makes an authenticator raise."""

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from token_kit import EC_KEY, FINGERPRINT, STRANGER, authenticator, b64, claims, filled, now, show, token

from authz_service.tokens.jose import Unverified, read_token
from authz_service.tokens.keys import KeysError, KeySet, read_jwks
from secure_mcp_grpc.authenticators import Principal, Refusal

GOOD = token()
_JUDGED = authenticator()
_ALPHABET = st.characters() | st.sampled_from("-_.=eyJ,")
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
_CLAIM = st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "jti", "cnf", "act", "roles"])
_PARAMETER = st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "b64"])


def refused(authorization: str) -> None:
    """Refused, or left to others: never a principal, never an exception."""
    outcome = _JUDGED.authenticate(show(authorization, fingerprint=FINGERPRINT, scheme=""))
    if hasattr(outcome, "close"):  # an unknown key would be fetched, at most once in ten seconds; here it is not
        outcome.close()
        return
    assert outcome is None or isinstance(outcome, Refusal)


@given(st.text(_ALPHABET, max_size=400))
def test_random_header_is_never_accepted(text: str) -> None:
    """Issue 3: no random token is ever accepted, no exception leaves."""
    refused(text)
    refused(f"Bearer {text}")


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("ABCDabcd0123-_.=+/ ,\0"))
def test_changed_character_is_never_accepted(place: int, character: str) -> None:
    """Issue 3: no mutated token is ever accepted: every bit of a token is under its signature or is it."""
    if GOOD[place] != character:
        refused(f"Bearer {GOOD[:place]}{character}{GOOD[place + 1 :]}")


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 20))
def test_cut_or_doubled_piece_is_never_accepted(place: int, length: int) -> None:
    """Issue 3: as above, for pieces that are lost, or come twice."""
    refused(f"Bearer {GOOD[:place]}{GOOD[place + length :]}")
    refused(f"Bearer {GOOD[:place]}{GOOD[place : place + length]}{GOOD[place:]}")


@given(st.dictionaries(_PARAMETER, _JSON, max_size=4), st.dictionaries(_CLAIM, _JSON, max_size=5))
def test_foreign_signature_is_never_accepted(header: dict[str, Any], changed: dict[str, Any]) -> None:
    """Issue 3: whatever a header or a claim says, a stranger's key signs nothing."""
    refused(f"Bearer {token(claims() | changed, key=STRANGER, header=header)}")


@given(st.dictionaries(_CLAIM, _JSON, min_size=1, max_size=5))
def test_odd_claims_of_an_honest_issuer_never_raise(changed: dict[str, Any]) -> None:
    """Ours: and where they are accepted, they are of the promised form."""
    outcome = now(authenticator().authenticate(show(token(claims() | changed), fingerprint=FINGERPRINT)))

    assert isinstance(outcome, Principal | Refusal)
    if isinstance(outcome, Principal):
        assert outcome.subject.startswith("user:corp:")
        assert outcome.expires_s > show("").now_s


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_can_be_taken_apart(header: bytes, payload: bytes) -> None:
    """Ours: the reader answers with parts or with a refusal."""
    assert isinstance(read_token(f"{b64(header)}.{b64(payload)}.AA"), Unverified | Refusal)


@settings(max_examples=200)
@given(st.lists(st.dictionaries(st.sampled_from(["kty", "kid", "n", "e", "crv", "x", "y", "use", "alg", "d"]), _JSON)))
def test_any_set_of_keys_can_be_read(entries: list[Any]) -> None:
    """Ours: what an issuer publishes never makes the reader raise anything but its own error."""
    with contextlib.suppress(KeysError):
        assert isinstance(read_jwks(json.dumps({"keys": entries}).encode()), KeySet)


def test_the_unchanged_token_is_accepted() -> None:
    """The tests above can fail: the token that they change is a good one."""
    assert isinstance(now(authenticator(keys=filled()).authenticate(show(token(key=EC_KEY)))), Principal)
    assert isinstance(now(_JUDGED.authenticate(show(GOOD))), Principal)
