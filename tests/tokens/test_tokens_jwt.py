"""JWTs: which are accepted, and each way in which one is not."""

import hashlib
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from prometheus_client import CollectorRegistry
from token_kit import (
    AUDIENCE,
    EC_KEY,
    ED_KEY,
    FINGERPRINT,
    ISSUER,
    KEYS,
    OTHER,
    RSA_KEY,
    STRANGER,
    authenticator,
    b64,
    claims,
    filled,
    issuer,
    jwk,
    jwks,
    later,
    now,
    reason,
    show,
    sign,
    token,
)

from authz_service.tokens.cache import TokenCache
from authz_service.tokens.claims import Bearer, thumbprint
from authz_service.tokens.jwt_authenticator import JwtAuthenticator, Trusted
from authz_service.tokens.keys import hmac_keys, read_jwks
from authz_service.tokens.metrics import TokenMetrics
from secure_mcp_grpc.authenticators import Principal, Refusal

NOW = int(time.time())
THUMBPRINT = b64(bytes.fromhex(FINGERPRINT))
RSA_PEM = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
UNSIGNED = f"{b64(json.dumps({'alg': 'none'}).encode())}.{b64(json.dumps(claims()).encode())}."


def judge(text: str, **changed: Any) -> Any:
    return now(authenticator(issuer(**changed)).authenticate(show(text, fingerprint=FINGERPRINT)))


def test_good_token_names_its_user() -> None:
    """Issue 3: user or agent identity from a bearer token."""
    principal = judge(token(claims(exp=NOW + 7200)))

    assert principal == Principal("user:corp:alice", "corp", (), (), "t1", NOW + 7200 + 5)


@pytest.mark.parametrize(
    ("key", "kid", "alg"),
    [
        *((RSA_KEY, "rsa", f"{family}{bits}") for family in ("RS", "PS") for bits in (256, 384, 512)),
        (EC_KEY, "ec", "ES256"),
        (ED_KEY, "ed", "EdDSA"),
        (EC_KEY, None, "ES256"),
    ],
)
def test_each_asymmetric_algorithm_verifies(key: Any, kid: str | None, alg: str) -> None:
    """Issue 3: asymmetric algorithms, with and without a named key."""
    assert isinstance(judge(token(key=key, kid=kid, alg=alg)), Principal)


@pytest.mark.parametrize(("curve", "alg"), [(ec.SECP384R1(), "ES384"), (ec.SECP521R1(), "ES512")])
def test_longer_curves_verify(curve: ec.EllipticCurve, alg: str) -> None:
    """RFC 7518, 3.4: each of them belongs to one algorithm."""
    key = ec.generate_private_key(curve)
    keys = filled(jwks(jwk(key, "long")))

    assert isinstance(now(authenticator(keys=keys).authenticate(show(token(key=key, alg=alg, kid="long")))), Principal)


def mangled(text: str, part: int, how: Any) -> str:
    parts = text.split(".")
    parts[part] = how(parts[part])
    return ".".join(parts)


def deep(levels: int) -> bytes:
    return b'{"iss":"%b","a":' % ISSUER.encode() + b"[" * levels + b"]" * levels + b"}"


ATTACKS: dict[str, tuple[str, str]] = {
    "alg none": (UNSIGNED, "token_algorithm"),
    "alg None": (token(header={"alg": "None"}), "token_algorithm"),
    "alg of another case": (token(header={"alg": "es256"}), "token_algorithm"),
    "alg missing": (token(raw_header=b'{"typ":"at+jwt","kid":"ec"}'), "token_algorithm"),
    "alg a number": (token(raw_header=b'{"alg":5}'), "token_algorithm"),
    "alg a list": (token(raw_header=b'{"alg":["ES256"]}'), "token_algorithm"),
    "HMAC with the public key as secret": (token(key=RSA_PEM, alg="HS256", kid="rsa"), "token_algorithm"),
    "HMAC with the JWK as secret": (
        token(key=json.dumps(jwk(RSA_KEY, "rsa")).encode(), alg="HS256", kid="rsa"),
        "token_algorithm",
    ),
    "algorithm of another type of key": (token(key=RSA_KEY, alg="RS256", kid="ec"), "token_algorithm"),
    "algorithm of another curve": (token(key=EC_KEY, alg="ES256", header={"alg": "ES384"}), "token_algorithm"),
    "jku": (token(header={"jku": "https://evil.example/keys"}), "token_malformed"),
    "x5u": (token(header={"x5u": "https://evil.example/cert"}), "token_malformed"),
    "embedded jwk": (token(key=STRANGER, header={"jwk": jwk(STRANGER, "ec")}), "token_malformed"),
    "embedded x5c": (token(header={"x5c": ["MIIB"]}), "token_malformed"),
    "crit": (token(header={"crit": ["exp"]}), "token_malformed"),
    "b64": (token(header={"b64": False}), "token_malformed"),
    "kid a number": (token(header={"kid": 1}), "token_malformed"),
    "kid a path": (token(header={"kid": "../../dev/null"}), "token_signature"),
    "kid very long": (token(header={"kid": "k" * 300}), "token_malformed"),
    "kid twice": (token(raw_header=b'{"alg":"ES256","kid":"x","kid":"ec"}'), "token_malformed"),
    "typ of something else": (token(header={"typ": "dpop+jwt"}), "token_type"),
    "typ a number": (token(header={"typ": 1}), "token_malformed"),
    "another key": (token(key=STRANGER), "token_signature"),
    "another key, unnamed": (token(key=STRANGER, kid=None), "token_signature"),
    "no signature": (mangled(token(), 2, lambda _: ""), "token_signature"),
    "truncated signature": (mangled(token(), 2, lambda text: text[:-4]), "token_signature"),
    "signature of zeros": (mangled(token(), 2, lambda _: b64(bytes(64))), "token_signature"),
    "signature in DER": (
        mangled(token(), 2, lambda _: b64(EC_KEY.sign(b"x", ec.ECDSA(hashes.SHA256())))),
        "token_signature",
    ),
    "signature twice": (mangled(token(), 2, lambda text: text + text), "token_signature"),
    "other claims under the signature": (
        mangled(token(), 1, lambda _: b64(json.dumps(claims(sub="admin")).encode())),
        "token_signature",
    ),
    "spare bits set": (mangled(token(), 2, lambda text: text[:-1] + chr(ord(text[-1]) + 1)), "token_signature"),
    "claims with spare bits": ("eyJhbGciOiJFUzI1NiJ9.e31.AA", "token_malformed"),
    "header not JSON": (f"{b64(b'{alg:none}')}.e30.AA", "token_malformed"),
    "claims a list": (token(b"[]"), "token_malformed"),
    "claims not UTF-8": (token(b'{"iss":"\xff"}'), "token_malformed"),
    "claims with NaN": (token(b'{"iss":"%b","exp":NaN}' % ISSUER.encode()), "token_malformed"),
    "a claim twice": (token(b'{"iss":"%b","sub":"a","sub":"b"}' % ISSUER.encode()), "token_malformed"),
    "a claim twice, deeper": (token(b'{"iss":"x","a":{"b":1,"b":2}}'), "token_malformed"),
    "a claim twice, escaped": (token(b'{"sub":"a","\\u0073ub":"b"}'), "token_malformed"),
    "nested lists": (token(deep(2900)), "token_malformed"),
    "a number of 5000 digits": (token(b'{"exp":' + b"9" * 5000 + b"}"), "token_malformed"),
    "oversized": ("eyJhbGciOiJFUzI1NiJ9." + "A" * 9000 + ".AA", "token_malformed"),
    "unknown issuer": (token(claims(iss="https://evil.example")), "token_issuer"),
    "issuer with a slash": (token(claims(iss=ISSUER + "/")), "token_issuer"),
    "issuer in capitals": (token(claims(iss=ISSUER.upper())), "token_issuer"),
    "issuer missing": (token(claims(iss=None)), "token_issuer"),
    "issuer a list": (token(claims(iss=[ISSUER])), "token_issuer"),
    "wrong audience": (token(claims(aud="someone-else")), "token_audience"),
    "audience missing": (token(claims(aud=None)), "token_audience"),
    "audience part of a name": (token(claims(aud=f"{AUDIENCE}-2")), "token_audience"),
    "audience an object": (token(claims(aud={AUDIENCE: 1})), "token_audience"),
    "audience with a number": (token(claims(aud=[AUDIENCE, 1])), "token_audience"),
    "expired": (token(claims(exp=NOW - 60)), "token_expired"),
    "exp missing": (token(claims(exp=None)), "token_claims"),
    "exp text": (token(claims(exp=str(NOW + 60))), "token_claims"),
    "exp true": (token(claims(exp=True)), "token_claims"),
    "exp infinite": (token(b'{"exp":1e999,' + json.dumps(claims(exp=None)).encode()[1:]), "token_claims"),
    "exp beyond all dates": (token(claims(exp=10**30)), "token_claims"),
    "exp negative": (token(claims(exp=-1)), "token_claims"),
    "not yet valid": (token(claims(nbf=NOW + 86400)), "token_not_yet_valid"),
    "nbf text": (token(claims(nbf="0")), "token_claims"),
    "issued in the future": (token(claims(iat=NOW + 86400)), "token_not_yet_valid"),
    "sub missing": (token(claims(sub=None)), "token_claims"),
    "sub empty": (token(claims(sub="")), "token_claims"),
    "sub a number": (token(claims(sub=7)), "token_claims"),
    "sub with NUL": (token(claims(sub="alice\0")), "token_claims"),
    "sub with a line break": (token(claims(sub="alice\nroot")), "token_claims"),
    "sub right to left": (token(claims(sub="alice\u202eecila")), "token_claims"),
    "sub with an invisible character": (token(claims(sub="ali\u200bce")), "token_claims"),
    "sub in another normal form": (token(claims(sub="Zoe\u0308")), "token_claims"),
    "sub with a lone surrogate": (token(claims(sub="\ud800")), "token_claims"),
    "sub with blanks around": (token(claims(sub=" alice")), "token_claims"),
    "sub too long": (token(claims(sub="a" * 257)), "token_claims"),
    "jti a number": (token(claims(jti=5)), "token_claims"),
    "act not an object": (token(claims(act="bob")), "token_claims"),
    "act without sub": (token(claims(act={"iss": ISSUER})), "token_claims"),
    "bound to another certificate": (token(claims(cnf={"x5t#S256": b64(bytes(32))})), "token_unbound"),
    "bound by a key": (token(claims(cnf={"jkt": "x"})), "token_unbound"),
    "bound by two things": (token(claims(cnf={"x5t#S256": THUMBPRINT, "jkt": "x"})), "token_unbound"),
    "bound to nothing": (token(claims(cnf={})), "token_unbound"),
    "cnf not an object": (token(claims(cnf=THUMBPRINT)), "token_unbound"),
    "thumbprint in hex": (token(claims(cnf={"x5t#S256": FINGERPRINT})), "token_unbound"),
    "thumbprint with padding": (token(claims(cnf={"x5t#S256": THUMBPRINT + "="})), "token_unbound"),
    "thumbprint empty": (token(claims(cnf={"x5t#S256": ""})), "token_unbound"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
async def test_attack_is_refused(attack: str) -> None:
    """Issue 3: each is refused with its reason and a sentence; RFC 8725 has most of them."""
    text, expected = ATTACKS[attack]
    outcome = await later(authenticator().authenticate(show(text, fingerprint=FINGERPRINT)))

    assert reason(outcome) == expected
    assert isinstance(outcome, Refusal)
    assert outcome.sentence[0].islower()
    assert text not in outcome.sentence


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (f"Bearer {token()},Bearer {token()}", "token_malformed"),
        (f"Bearer {token()}, Bearer {token()}", "token_malformed"),
        (f"Basic YTpi,Bearer {token()}", "token_malformed"),
        (f"Bearer {token()},Basic YTpi", "token_malformed"),
        (f"Bearer {token()} {token()}", "token_malformed"),
        (f"Bearer\t{token()}", "token_malformed"),
        (f"Bearer {token()} ", "token_malformed"),
        (f"Bearer {token()}\u200b", "token_malformed"),
        ("Bearer", "token_malformed"),
        ("Bearer ", "token_malformed"),
        ("Bearer " + "A" * 8193, "token_malformed"),
    ],
)
def test_anything_but_one_bearer_token_is_refused(authorization: str, expected: str) -> None:
    """RFC 6750, 2.1; issue 3: duplicated headers, which arrive joined by commas."""
    assert reason(now(authenticator().authenticate(show(authorization, scheme="")))) == expected


@pytest.mark.parametrize("authorization", ["Basic YTpi", "DPoP eyJ.e30.AA", "Bearerx y", "Negotiate"])
def test_other_schemes_are_left_to_others(authorization: str) -> None:
    """The protocol: None where a credential is not of this kind."""
    assert now(authenticator().authenticate(show(authorization, scheme=""))) is None


@pytest.mark.parametrize("opaque", ["2YotnFZFEjr1zCsicMWpAA", "v1.abc", "a.b.c.d.e", "gho_x/y+z==", "v1.abc.def"])
def test_opaque_tokens_are_left_to_others(opaque: str) -> None:
    """Ours: what does not have the form of a JWT is none."""
    assert now(authenticator().authenticate(show(opaque))) is None


@pytest.mark.parametrize("scheme", ["bearer ", "BEARER ", "Bearer   "])
def test_scheme_is_compared_without_case(scheme: str) -> None:
    """RFC 9110, 11.1."""
    assert isinstance(now(authenticator().authenticate(show(token(), scheme=scheme))), Principal)


def test_clocks_may_differ_by_the_leeway() -> None:
    """Ours: `leeway_s`, for the end, the beginning and the date of issue, and not more."""
    moments = {"exp": NOW, "nbf": NOW, "iat": NOW}
    judged = authenticator(issuer(leeway_s=5))

    early = token(claims(**moments | {"exp": NOW + 60}))
    assert isinstance(now(judged.authenticate(show(early, now_s=NOW - 4))), Principal)
    assert reason(now(authenticator().authenticate(show(early, now_s=NOW - 6)))) == "token_not_yet_valid"
    assert isinstance(now(judged.authenticate(show(token(claims(**moments)), now_s=NOW + 4))), Principal)
    assert reason(now(judged.authenticate(show(token(claims(**moments)), now_s=NOW + 5)))) == "token_expired"


def test_remembered_token_ends_when_it_ends() -> None:
    """Ours: a cached token is judged by the clock at each use."""
    judged, text = authenticator(), token(claims(iat=NOW, exp=NOW + 10))

    assert isinstance(now(judged.authenticate(show(text, now_s=NOW))), Principal)
    assert isinstance(now(judged.authenticate(show(text, now_s=NOW + 14))), Principal)
    assert reason(now(judged.authenticate(show(text, now_s=NOW + 15)))) == "token_expired"


def test_remembered_tokens_are_few_and_of_the_last_minute() -> None:
    """Ours: bounded in number and time; the one used last stays."""
    metrics = TokenMetrics(CollectorRegistry())
    cache = TokenCache(2, metrics)
    bearer = Bearer(Principal("user:corp:a", "corp", expires_s=NOW + 7200), "")
    for text in ("a", "b"):
        cache.put(text, "corp", 1, bearer, NOW)
    assert cache.get("a", NOW + 59) == ("corp", 1, bearer)
    cache.put("c", "corp", 1, bearer, NOW)

    assert cache.get("b", NOW) is None
    assert cache.get("a", NOW) is not None
    assert cache.get("a", NOW + 60) is None
    assert (metrics.cache.hits, metrics.cache.misses) == (2, 2)


def test_remembered_token_is_bound_at_each_use() -> None:
    """RFC 8705, 3: who has seen a bound token pass cannot use it over another connection."""
    judged, text = authenticator(), token(claims(cnf={"x5t#S256": THUMBPRINT}))

    assert isinstance(now(judged.authenticate(show(text, fingerprint=FINGERPRINT))), Principal)
    assert reason(now(judged.authenticate(show(text, fingerprint="00" * 32)))) == "token_unbound"
    assert reason(now(judged.authenticate(show(text)))) == "token_unbound"


def test_binding_can_be_demanded() -> None:
    """Issue 3: a setting can require certificate-bound tokens."""
    bound = token(claims(cnf={"x5t#S256": THUMBPRINT}))

    assert isinstance(judge(bound, require_bound=True), Principal)
    assert reason(judge(token(), require_bound=True)) == "token_unbound"


def test_delegation_is_a_chain_with_the_current_actor_first() -> None:
    """RFC 8693, 4.1; `may_act` gives nothing."""
    act = {"sub": "agent", "act": {"sub": "planner", "iss": "https://elsewhere.example", "exp": 1}}
    principal = judge(token(claims(act=act, may_act={"sub": "anyone"})))

    assert principal.actors == ("user:corp:agent", "https://elsewhere.example#planner")


def nested_act(depth: int) -> Any:
    act: Any = None
    for number in range(depth):
        act = {"sub": f"a{number}"} | ({"act": act} if act else {})
    return act


def test_delegation_has_eight_links_at_most() -> None:
    """Ours: the chain is recorded with each decision."""
    assert len(judge(token(claims(act=nested_act(8)))).actors) == 8
    assert reason(judge(token(claims(act=nested_act(9))))) == "token_claims"


@pytest.mark.parametrize(
    ("path", "value", "roles"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["b", "a", "a"]}}, ("role:a", "role:b")),
        ("roles", {"roles": []}, ()),
        ("roles", {}, ()),
        ("realm_access.roles", {"realm_access": 5}, ()),
        ("scope", {"scope": "mcp:read mcp:write"}, ("role:mcp:read", "role:mcp:write")),
        ("https://x.example/roles", {"https://x.example/roles": ["x"]}, ("role:x",)),
        ("roles", {"roles": ["a\nb"]}, None),
        ("roles", {"roles": ["a,b"]}, None),
        ("roles", {"roles": ["a*"]}, None),
        ("roles", {"roles": [1]}, None),
        ("roles", {"roles": {"a": 1}}, None),
        ("roles", {"roles": [f"r{number}" for number in range(65)]}, None),
    ],
)
def test_roles_come_from_the_claim_that_is_named(path: str, value: Any, roles: tuple[str, ...] | None) -> None:
    """Issue 3: roles may come from claims. Ours: an odd one refuses the token, as a deny rule might name it."""
    outcome = judge(token(claims(**value)), roles_claim=path)

    if roles is None:
        assert reason(outcome) == "token_claims"
    else:
        assert outcome.roles == roles


def test_roles_are_not_taken_unasked() -> None:
    """Ours: no `roles_claim`, no roles."""
    assert judge(token(claims(roles=["admin"]))).roles == ()


def test_another_claim_can_name_the_user() -> None:
    """Ours: `subject_claim`."""
    assert judge(token(claims(email="a@example.org")), subject_claim="email").subject == "user:corp:a@example.org"
    assert reason(judge(token(), subject_claim="email")) == "token_claims"


@pytest.mark.parametrize(
    ("types", "typ", "accepted"),
    [
        (("at+jwt",), "at+jwt", True),
        (("at+jwt",), "application/AT+JWT", True),
        (("at+jwt",), "JWT", False),
        (("at+jwt",), None, False),
        (("at+jwt", ""), None, True),
    ],
)
def test_types_are_those_of_the_issuer(types: tuple[str, ...], typ: str | None, accepted: bool) -> None:
    """RFC 9068, 2.1 and 4; RFC 7515, 4.1.9."""
    head = {"alg": "ES256", "kid": "ec"} | ({"typ": typ} if typ is not None else {})
    outcome = judge(token(raw_header=json.dumps(head).encode()), types=types)

    assert isinstance(outcome, Principal) if accepted else reason(outcome) == "token_type"


def test_algorithms_are_those_of_the_issuer() -> None:
    """Ours: `algorithms`, checked before a key is looked up."""
    assert reason(judge(token(), algorithms=("RS256",))) == "token_algorithm"


def test_hmac_works_where_it_is_asked_for() -> None:
    """Issue 3: asymmetric only by default; a shared secret has to be named."""
    secret = b"s" * 32
    keys = filled()
    keys.put(hmac_keys(secret))
    shared = issuer(jwks_file=None, hmac_secret_file="secret", algorithms=("HS256", "HS512"))
    judged = authenticator(shared, keys=keys)

    assert isinstance(now(judged.authenticate(show(token(key=secret, alg="HS256", kid=None)))), Principal)
    assert isinstance(now(judged.authenticate(show(token(key=secret, alg="HS256", kid="named")))), Principal)
    assert reason(now(judged.authenticate(show(token(key=secret, alg="HS512", kid=None))))) == "token_signature"
    assert reason(now(judged.authenticate(show(token())))) == "token_algorithm"
    assert reason(now(judged.authenticate(show(token(key=b"t" * 32, alg="HS256", kid=None))))) == "token_signature"


def test_issuers_do_not_vouch_for_each_other() -> None:
    """Issue 3: several issuers; a token counts with the keys and the audience of its own."""
    both = [issuer(), issuer(name="partner", issuer=OTHER, audience="partner-gateway")]
    judged = authenticator(*both)

    accepted = now(judged.authenticate(show(token(claims(iss=OTHER, aud="partner-gateway")))))
    assert isinstance(accepted, Principal)
    assert accepted.subject == "user:partner:alice"
    assert reason(now(judged.authenticate(show(token(claims(iss=OTHER)))))) == "token_audience"


def test_keys_of_one_issuer_verify_nothing_of_another() -> None:
    """Issue 3: several issuers, each with its own keys."""
    metrics = TokenMetrics(CollectorRegistry())
    ours, theirs = issuer(), issuer(name="partner", issuer=OTHER)
    keys = {ours.name: filled(KEYS), theirs.name: filled(jwks(jwk(STRANGER, "ec")))}
    judged = JwtAuthenticator(
        [Trusted.of(one, keys[one.name]) for one in (ours, theirs)],
        {one.issuer: one.name for one in (ours, theirs)},
        TokenCache(10, metrics),
        max_token_bytes=8192,
        wait_s=1,
    )

    assert isinstance(now(judged.authenticate(show(token(claims(iss=OTHER), key=STRANGER)))), Principal)
    assert reason(now(judged.authenticate(show(token(claims(iss=OTHER)))))) == "token_signature"
    assert reason(now(judged.authenticate(show(token(key=STRANGER))))) == "token_signature"


def test_weak_or_misplaced_keys_are_ignored() -> None:
    """Ours: a JWK Set is read with suspicion; a good key among bad ones still works."""
    weak = rsa.generate_private_key(65537, 1024)
    entries = [
        jwk(weak, "weak"),
        jwk(STRANGER, "private", d="AA"),
        {"kty": "oct", "kid": "oct", "k": b64(b"s" * 32)},
        jwk(STRANGER, "enc", use="enc"),
        jwk(STRANGER, "sign", key_ops=["sign"]),
        jwk(STRANGER, "twice"),
        jwk(EC_KEY, "twice"),
        jwk(STRANGER, "alg", alg="RS256"),
        jwk(STRANGER) | {"kid": 5},
        jwk(STRANGER, "curve") | {"crv": "P-384"},
        {"kty": "RSA", "kid": "short"},
        {"kty": "RSA", "kid": "exponent", "n": jwk(RSA_KEY)["n"], "e": b64(b"\x01")},
        {"kty": "RSA", "kid": "large exponent", "n": jwk(RSA_KEY)["n"], "e": b64((2**33 + 1).to_bytes(5, "big"))},
        {"kty": "RSA", "kid": "giant", "n": "A" * 3000, "e": "AQAB"},
        jwk(ec.generate_private_key(ec.SECP256R1()), "koblitz") | {"crv": "secp256k1"},
        "not an object",
        jwk(EC_KEY, "ec"),
    ]
    keys = read_jwks(jwks(*entries))  # type: ignore[arg-type] # one is not an object, on purpose

    assert [key.kid for key in keys.keys] == ["ec"]
    assert len(keys.ignored) == len(entries) - 1
    assert not any("AA" in problem for problem in keys.ignored)


@pytest.mark.parametrize("kid", [None, "unpublished"])
def test_key_signs_with_the_algorithm_that_it_states(kid: str | None) -> None:
    """RFC 7517, 4.4: a key for RS256 verifies nothing else, also where keys have no names and several are tried."""
    another = rsa.generate_private_key(65537, 2048)
    judged = authenticator(keys=filled(jwks(jwk(RSA_KEY, alg="RS256"), jwk(another))))

    assert isinstance(now(judged.authenticate(show(token(key=RSA_KEY, alg="RS256", kid=kid)))), Principal)
    assert isinstance(now(judged.authenticate(show(token(key=another, alg="PS256", kid=kid)))), Principal)
    assert reason(now(judged.authenticate(show(token(key=RSA_KEY, alg="PS256", kid=kid))))) == "token_signature"


def test_fingerprint_of_the_spec_example() -> None:
    """RFC 8705, 3.1: base64url of the SHA-256 of the DER certificate, without padding."""
    assert thumbprint(hashlib.sha256(b"").hexdigest()) == "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"


def test_signature_helper_signs_what_others_verify() -> None:
    """Ours: the tests' own hand-made signature is a real one."""
    content = b"content"
    assert len(sign(EC_KEY, "ES256", content)) == 64
