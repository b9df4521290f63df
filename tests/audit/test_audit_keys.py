"""Keys: how they are kept, and what a seal with a key adds."""

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest
from audit_journals import lines, verify_directory, verify_lines, write, written
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authz_service.audit.keys import public_path, read_anchor_key, read_public_key, read_seal
from authz_service.audit.seals import PLAIN, Seal, split_line
from authz_service.audit.verify import Keys
from secure_mcp_grpc.errors import UserError

SEAL = Seal.keyed(b"s" * 32)
OTHER = Seal.keyed(b"o" * 32)


def test_anchor_key_is_made_private_with_its_public_half_beside_it(tmp_path: Path) -> None:
    """Issue 3: an Ed25519 key; made once."""
    key = read_anchor_key(tmp_path / "anchor.key")
    again = read_anchor_key(tmp_path / "anchor.key")

    assert stat.S_IMODE((tmp_path / "anchor.key").stat().st_mode) == 0o600
    public = read_public_key(public_path(tmp_path / "anchor.key"))
    assert public == key.public_key() == again.public_key()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_keys_that_others_can_read_are_refused(tmp_path: Path, mode: int) -> None:
    """Ours: mode 0600 for what is ours."""
    read_anchor_key(tmp_path / "anchor.key")
    (tmp_path / "seal.key").write_bytes(os.urandom(32))
    for name in ("anchor.key", "seal.key"):
        (tmp_path / name).chmod(mode)

    with pytest.raises(UserError, match=r"anchor.key is open to other users; run: chmod 600"):
        read_anchor_key(tmp_path / "anchor.key")
    with pytest.raises(UserError, match=r"seal.key is open to other users; run: chmod 600"):
        read_seal(tmp_path / "seal.key")


def test_mounted_keys_may_be_read_by_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a Kubernetes secret belongs to root, and the pod's group reads it; nobody may write or read it beyond."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    path = tmp_path / "seal.key"
    path.write_bytes(b"s" * 32)

    path.chmod(0o440)
    assert read_seal(path).key_id == SEAL.key_id
    for mode in (0o460, 0o444):
        path.chmod(mode)
        with pytest.raises(UserError, match="open to other users"):
            read_seal(path)


def test_unusable_keys_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """Ours: a bad key stops the start and is named."""
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"", b"not a key", other):
        path = tmp_path / "bad.key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(UserError, match=r"bad.key is not an Ed25519 private key"):
            read_anchor_key(path)
        with pytest.raises(UserError, match=r"bad.key is not an Ed25519 public key"):
            read_public_key(path)
    (tmp_path / "short").write_bytes(b"x" * 31)
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(UserError, match="short has 31 bytes; expected at least 32"):
        read_seal(tmp_path / "short")
    with pytest.raises(UserError, match="none cannot be read: No such file"):
        read_seal(tmp_path / "none")


def test_keyed_journal_verifies_with_its_key_only(tmp_path: Path) -> None:
    """Issue 3: HMAC key optional; verifying needs the key."""
    content = written(tmp_path / "j", seal=SEAL)

    assert json.loads(content[0])["rule"] == f"hmac-sha256:{SEAL.key_id}"
    assert verify_lines(content, keys=Keys((OTHER, SEAL))).clean
    for keys in (Keys(), Keys((OTHER,))):
        report = verify_lines(content, keys=keys)
        assert [(finding.kind, finding.seq) for finding in report.findings] == [("key", 1)] * 3
        assert SEAL.key_id in report.findings[0].text


def test_without_its_key_the_order_is_still_checked(tmp_path: Path) -> None:
    """Ours: what can be checked is checked."""
    content = written(tmp_path / "j", (5,), seal=SEAL)

    report = verify_lines(content[:2] + content[3:])

    assert [(finding.kind, finding.seq) for finding in report.findings] == [("key", 1), ("missing", 3)]


def test_changed_record_cannot_be_sealed_anew_without_the_key(tmp_path: Path) -> None:
    """Issue 3: that is what the key is for: not even at the very end."""
    content = written(tmp_path / "j", (5,), seal=SEAL)
    parts = split_line(content[-1].replace(b"allow", b"ALLOW"))
    assert parts
    content[-1] = parts[0][:-1] + b',"hash":"%s"}' % PLAIN.digest(parts[0]).encode()

    report = verify_lines(content, keys=Keys((SEAL,)))

    assert [(finding.kind, finding.seq) for finding in report.findings] == [("changed", 6)]


def test_a_chain_without_a_key_after_one_with_is_a_finding(tmp_path: Path) -> None:
    """Ours: otherwise leaving out the key would be a way to forge. What came before the key is covered by it."""
    asyncio.run(write(tmp_path / "j", (3,)))
    asyncio.run(write(tmp_path / "j", (3,), seal=SEAL))
    assert verify_directory(tmp_path / "j", keys=Keys((SEAL,))).clean

    asyncio.run(write(tmp_path / "j", (3,)))
    report = verify_directory(tmp_path / "j", keys=Keys((SEAL,)))
    assert [(finding.kind, finding.chain) for finding in report.findings] == [
        ("key", json.loads(lines(tmp_path / "j")[-1])["chain"])
    ]
    asyncio.run(write(tmp_path / "j", (3,), seal=SEAL))
    assert verify_directory(tmp_path / "j", keys=Keys((SEAL,))).findings == report.findings, "a later key hides nothing"


def test_a_new_key_goes_on_with_the_chain_of_chains(tmp_path: Path) -> None:
    """Ours: rotation of the HMAC key: both are needed to verify, and nothing is taken for damaged."""
    asyncio.run(write(tmp_path / "j", (3,), seal=SEAL))
    asyncio.run(write(tmp_path / "j", (3,), seal=OTHER))

    assert verify_directory(tmp_path / "j", keys=Keys((SEAL, OTHER))).clean
