"""Identity comes from the verified certificate and nothing else."""

import time

import pytest
from authz_requests import certificate

from authz_service.identity import Identity, IdentityReader
from authz_service.verdict import Deny

NOW = time.time()
A = "spiffe://mcp.internal/model-a"


def read(encoded: str, principal: str = A, now_s: float = NOW) -> Identity | Deny:
    return IdentityReader(["mcp.internal", "partner.example"], 4).read(encoded, principal, now_s)


def refusal(outcome: Identity | Deny) -> str:
    assert isinstance(outcome, Deny)
    assert outcome.code == 16
    return outcome.reason


def test_subject_is_the_path_in_the_first_trust_domain() -> None:
    """Ours: SPIFFE-ID, 2: one identity, in an accepted trust domain."""
    identity = read(certificate("spiffe://mcp.internal/ns/a/model-a"), "spiffe://mcp.internal/ns/a/model-a")

    assert isinstance(identity, Identity)
    assert identity.subject == "ns/a/model-a"


def test_subject_is_the_whole_id_in_another_trust_domain() -> None:
    """Ours: two domains' paths must not be confused."""
    identity = read(certificate("spiffe://partner.example/model-a"), "spiffe://partner.example/model-a")

    assert isinstance(identity, Identity)
    assert identity.subject == "spiffe://partner.example/model-a"


def test_serial_and_fingerprint_are_written_as_envoy_writes_them() -> None:
    """Envoy: %DOWNSTREAM_PEER_SERIAL% is lower-case hex in whole bytes, the fingerprint 64 hex digits."""
    identity = read(certificate(A, serial=0xABC))

    assert isinstance(identity, Identity)
    assert identity.serial == "0abc"
    assert len(identity.fingerprint) == 64


def test_a_dns_name_beside_the_uri_is_accepted() -> None:
    """SPIFFE X.509-SVID 2: other SAN types may be there."""
    assert isinstance(read(certificate(A, dns="model-a.local")), Identity)


@pytest.mark.parametrize(
    "uri",
    [
        "https://mcp.internal/model-a",
        "spiffe://mcp.internal",
        "spiffe://mcp.internal/",
        "spiffe://mcp.internal/model-a/",
        "spiffe://mcp.internal//model-a",
        "spiffe://mcp.internal/../model-a",
        "spiffe://mcp.internal/a/..",
        "spiffe://mcp.internal/.",
        "spiffe://MCP.internal/model-a",
        "SPIFFE://mcp.internal/model-a",
        "spiffe://mcp.internal/role:admin",
        "spiffe://mcp.internal/model-a?x=1",
        "spiffe://mcp.internal/model-a#x",
        "spiffe://mcp.internal/model%2da",
        "spiffe://user@mcp.internal/model-a",
        "spiffe://mcp.internal:443/model-a",
        "spiffe://mcp.internal/model-a\n",
        "spiffe://mcp.internal/" + "a" * 2048,
    ],
)
def test_uri_that_is_no_spiffe_id_of_a_workload_is_refused(uri: str) -> None:
    """SPIFFE-ID 2: syntax; and nobody can be born with a role's name."""
    assert refusal(read(certificate(uri), uri)) == "bad_certificate"


def test_certificate_with_two_uris_is_refused() -> None:
    """SPIFFE X.509-SVID 2: exactly one URI SAN."""
    assert refusal(read(certificate(A, "spiffe://mcp.internal/model-b"))) == "bad_certificate"


def test_certificate_without_san_is_refused() -> None:
    """Ours: a common name is not an identity."""
    assert refusal(read(certificate())) == "bad_certificate"


def test_foreign_trust_domain_is_refused() -> None:
    """Ours: only trust_domains."""
    uri = "spiffe://evil.example/model-a"

    assert refusal(read(certificate(uri), uri)) == "untrusted_domain"


def test_principal_that_is_not_the_certificates_is_refused() -> None:
    """Ours: Envoy's principal and the certificate must say the same."""
    assert refusal(read(certificate(A), "spiffe://mcp.internal/model-b")) == "principal_mismatch"


def test_missing_certificate_is_refused() -> None:
    """Ours: a principal alone proves nothing."""
    assert refusal(read("")) == "no_certificate"


@pytest.mark.parametrize(
    "text", ["x", "%00", "%ff", "-----BEGIN CERTIFICATE-----%0A-----END CERTIFICATE-----", "A" * 99999]
)
def test_garbage_instead_of_a_certificate_is_refused(text: str) -> None:
    """Ours: no exception leaves the reader."""
    assert refusal(read(text)) == "bad_certificate"


def test_two_certificates_in_one_text_are_refused() -> None:
    """Ours: two readers might take different ones."""
    assert refusal(read(certificate(A) + certificate(A))) == "bad_certificate"


def test_connection_that_outlives_its_certificate_is_refused() -> None:
    """Ours: a remembered certificate still expires."""
    reader = IdentityReader(["mcp.internal"], 4)
    encoded = certificate(A, days=1)

    assert isinstance(reader.read(encoded, A, NOW), Identity)
    assert refusal(reader.read(encoded, A, NOW + 2 * 86400)) == "certificate_expired"
