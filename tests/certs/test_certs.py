"""The certificate authority of `secure-mcp-grpc certs`."""

import datetime
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_mcp_grpc import certs
from secure_mcp_grpc.errors import UserError

DOMAIN = "test.mcp"
NOW = datetime.datetime.now(datetime.UTC)
MINUTE = datetime.timedelta(minutes=1)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    certs.init_ca(tmp_path / "ca", DOMAIN)
    return tmp_path / "ca"


@pytest.fixture
def identity(tmp_path: Path, ca: Path) -> Path:
    certs.issue(ca, tmp_path / "model-a", "model-a", DOMAIN, dns=["localhost"], ips=["127.0.0.1", "::1"])
    return tmp_path / "model-a"


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_leaf_is_an_x509_svid_for_both_ends(identity: Path) -> None:
    """X509-SVID, 2 to 4: one URI SAN, not a CA, digitalSignature, server and client authentication; EC P-256."""
    leaf = load(identity / "tls.crt")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    key = leaf.public_key()

    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://test.mcp/model-a"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert basic.critical
    assert not basic.value.ca
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_the_ca_signs_leaves_of_its_trust_domain_and_nothing_else(ca: Path) -> None:
    """X509-SVID, 4.1 to 4.3; ours: path length 0 and name constraints."""
    authority = load(ca / "ca.crt")
    basic = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage)
    constraints = authority.extensions.get_extension_for_class(x509.NameConstraints)

    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [x509.UniformResourceIdentifier(DOMAIN)]


def test_a_leaf_lives_for_a_day_and_began_minutes_ago(tmp_path: Path, ca: Path) -> None:
    """Issue: 24-hour leaves by default; ours: room for clocks that differ."""
    second = datetime.timedelta(seconds=1)
    before = datetime.datetime.now(datetime.UTC)
    certs.issue(ca, tmp_path / "a", "a", DOMAIN)
    after = datetime.datetime.now(datetime.UTC)
    facts = certs.facts(tmp_path / "a")

    assert before - second < facts.not_after - 24 * 60 * MINUTE <= after  # certificates have whole seconds
    assert before - 10 * MINUTE < facts.not_before < after - MINUTE


def test_a_leaf_does_not_outlive_its_ca(tmp_path: Path) -> None:
    """Ours: a longer one would be refused before its end, without a word about why."""
    certs.init_ca(tmp_path / "ca", DOMAIN, lifetime=60 * MINUTE)
    certs.issue(tmp_path / "ca", tmp_path / "a", "a")

    assert certs.facts(tmp_path / "a").not_after == certs.facts(tmp_path / "ca").not_after


def test_keys_are_private(ca: Path, identity: Path) -> None:
    """Issue: keys 0600."""
    for key in (ca / "ca.key", identity / "tls.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for directory in (ca, identity, (identity / "..data").resolve()):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_renewal_is_one_rename(ca: Path, identity: Path) -> None:
    """Ours: whoever reads certificate and key of one version through `..data` gets a pair."""
    stop = threading.Event()
    mismatches: list[str] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            version = (identity / "..data").resolve()
            try:
                leaf = load(version / "tls.crt")
                key = serialization.load_pem_private_key((version / "tls.key").read_bytes(), None)
            except FileNotFoundError:  # two renewals later; a reader starts again
                continue
            reads += 1
            if leaf.public_key() != key.public_key():
                mismatches.append(version.name)

    reader = threading.Thread(target=read)
    reader.start()
    serials = {certs.facts(identity).serial}
    for _ in range(20):
        certs.issue(ca, identity, "model-a", DOMAIN)
        serials.add(certs.facts(identity).serial)
    stop.set()
    reader.join()

    assert mismatches == []
    assert reads > 0
    assert len(serials) == 21
    assert len([path for path in identity.iterdir() if path.name.startswith("..2")]) <= 2


def test_an_identity_of_plain_files_is_taken_over(ca: Path, tmp_path: Path) -> None:
    """Ours: certificates that another tool put there are replaced by links."""
    (tmp_path / "x").mkdir(mode=0o700)
    (tmp_path / "x" / "tls.crt").write_text("old")
    certs.issue(ca, tmp_path / "x", "x")

    assert certs.load_identity(tmp_path / "x").spiffe_id == "spiffe://test.mcp/x"


def test_an_identity_loads(identity: Path) -> None:
    """Ours: what a gRPC channel needs, checked."""
    loaded = certs.load_identity(identity)

    assert loaded.spiffe_id == "spiffe://test.mcp/model-a"
    assert loaded.key.startswith(b"-----BEGIN PRIVATE KEY")
    assert loaded.ca == (identity / "ca.crt").read_bytes()


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
@pytest.mark.parametrize("content", [None, b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_missing_or_broken_file_of_an_identity_is_named(identity: Path, name: str, content: bytes | None) -> None:
    """Ours: a UserError that names the file."""
    (identity / name).unlink()
    if content is not None:
        (identity / name).write_bytes(content)

    with pytest.raises(UserError, match=str(identity / name)):
        certs.load_identity(identity)


def test_a_key_of_another_certificate_is_named(ca: Path, identity: Path, tmp_path: Path) -> None:
    """Ours: a mismatched pair."""
    certs.issue(ca, tmp_path / "other", "other")
    (identity / "tls.key").unlink()
    (identity / "tls.key").write_bytes((tmp_path / "other" / "tls.key").read_bytes())

    with pytest.raises(UserError, match=r"tls\.key is not the key of"):
        certs.load_identity(identity)


def test_a_ca_that_did_not_sign_is_named(identity: Path, tmp_path: Path) -> None:
    """Ours: even one of the same name; in a bundle, one that did is enough."""
    own = (identity / "ca.crt").read_bytes()
    certs.init_ca(tmp_path / "other-ca", DOMAIN)
    other = (tmp_path / "other-ca" / "ca.crt").read_bytes()
    (identity / "ca.crt").unlink()
    (identity / "ca.crt").write_bytes(other)
    with pytest.raises(UserError, match=r"ca\.crt did not sign"):
        certs.load_identity(identity)

    (identity / "ca.crt").write_bytes(other + own)
    assert certs.load_identity(identity).ca == other + own


@pytest.mark.parametrize(
    ("uris", "start", "end", "words"),
    [
        (["spiffe://test.mcp/a"], -9, -1, "expired"),
        (["spiffe://test.mcp/a"], 5, 9, "not valid before"),
        (["spiffe://test.mcp/a", "spiffe://test.mcp/b"], -1, 9, "exactly one URI"),
        (["https://test.mcp/a"], -1, 9, "exactly one URI"),
        ([], -1, 9, "exactly one URI"),
    ],
)
def test_a_certificate_that_no_peer_would_take_is_named(
    tmp_path: Path, uris: list[str], start: int, end: int, words: str
) -> None:
    """Ours: expired, not yet valid, not exactly one SPIFFE ID."""
    ca, ca_key = certs.make_ca(DOMAIN)
    times = {"not_before": NOW + start * MINUTE, "not_after": NOW + end * MINUTE}
    leaf, key = certs.make_leaf(ca, ca_key, uris, **times)
    files = {"tls.crt": certs.pem(leaf), "tls.key": certs.key_pem(key), "ca.crt": certs.pem(ca)}
    certs.replace_identity(tmp_path / "x", files)

    with pytest.raises(UserError, match=rf"tls\.crt .*{words}"):
        certs.load_identity(tmp_path / "x")


def test_a_ca_is_never_overwritten(ca: Path) -> None:
    """Ours: every certificate that it issued would stop working."""
    before = (ca / "ca.key").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        certs.init_ca(ca, DOMAIN)

    assert (ca / "ca.key").read_bytes() == before


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda ca: [path.unlink() for path in ca.iterdir()], "there is no CA"),
        (lambda ca: (ca / "ca.key").unlink(), "ca.key cannot be read"),
        (lambda ca: (ca / "ca.crt").write_text("rubbish"), "ca.crt is not a PEM certificate"),
        (lambda ca: (ca / "ca.key").write_bytes(certs.key_pem(certs.make_ca("x")[1])), "is not the key of"),
    ],
)
def test_a_broken_ca_is_named(ca: Path, tmp_path: Path, break_it: object, words: str) -> None:
    """Ours: missing, unreadable or mismatched: one clear line, and nothing is written."""
    assert callable(break_it)
    break_it(ca)
    with pytest.raises(UserError, match=words):
        certs.issue(ca, tmp_path / "out", "a")

    assert not (tmp_path / "out").exists()


def test_an_unreadable_ca_is_named(ca: Path, tmp_path: Path) -> None:
    """Ours: names the file. (A directory cannot be read as a file by anyone, root included.)"""
    (ca / "ca.key").unlink()
    (ca / "ca.key").mkdir()
    with pytest.raises(UserError, match=r"ca\.key cannot be read"):
        certs.issue(ca, tmp_path / "out", "a")


def test_another_trust_domain_is_refused_unless_asked_for(ca: Path, tmp_path: Path) -> None:
    """Ours: the name constraints would make such a certificate useless."""
    with pytest.raises(UserError, match=r"signs for trust domain test\.mcp, not evil\.mcp"):
        certs.issue(ca, tmp_path / "x", "x", "evil.mcp")

    certs.issue(ca, tmp_path / "x", "x", "evil.mcp", allow_other_trust_domain=True)
    assert certs.facts(tmp_path / "x").uris == ("spiffe://evil.mcp/x",)


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a b", "a:b", "a,b", "a\n", "ä", "a%2fb", "x" * 2048]
)
def test_a_name_that_is_no_spiffe_path_is_refused(ca: Path, tmp_path: Path, name: str) -> None:
    """SPIFFE-ID, 2.2 and 2.3: segments of letters, digits, dot, dash and underscore; 2,048 bytes in all."""
    with pytest.raises(UserError, match="name"):
        certs.issue(ca, tmp_path / "out", name)


@pytest.mark.parametrize("domain", ["", "UPPER", "a_b/c", "a b", "-a", "a|b", "x" * 300])
def test_a_trust_domain_of_the_wrong_form_is_refused(tmp_path: Path, domain: str) -> None:
    """SPIFFE-ID, 2.1."""
    with pytest.raises(UserError, match="trust domain"):
        certs.init_ca(tmp_path / "ca", domain)


@pytest.mark.parametrize("options", [{"dns": ["a b"]}, {"ips": ["localhost"]}, {"lifetime": -MINUTE}])
def test_a_bad_option_is_refused(ca: Path, tmp_path: Path, options: dict[str, object]) -> None:
    """Ours: before anything is written."""
    with pytest.raises(UserError):
        certs.issue(ca, tmp_path / "out", "a", **options)  # type: ignore[arg-type]

    assert not (tmp_path / "out").exists()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.from_regex(r"\A[A-Za-z0-9_-]{1,9}(/[A-Za-z0-9._-]{3,9}){0,3}\Z"))
def test_every_good_name_round_trips(ca: Path, tmp_path: Path, name: str) -> None:
    """Ours: what is issued is what was asked for, and loads."""
    if any(segment.strip(".") == "" for segment in name.split("/")):
        return
    certs.issue(ca, tmp_path / "out", name)

    assert certs.load_identity(tmp_path / "out").spiffe_id == f"spiffe://{DOMAIN}/{name}"


def test_show_is_a_table_of_texts(ca: Path, identity: Path) -> None:
    """Contract with the command line: names and texts, for a file or a directory."""
    shown = certs.show(identity)

    assert shown == certs.show(identity / "tls.crt")
    assert shown["URI"] == "spiffe://test.mcp/model-a"
    assert shown["kind"] == "identity"
    assert certs.show(ca)["kind"] == "CA"
    assert all(isinstance(value, str) for value in shown.values())
