"""`secure-mcp-grpc audit`, as a process."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from audit_journals import KEY, OTHER_KEY, lines, write
from chain_stack import run_cli

from authz_service.audit import anchors
from authz_service.audit.keys import public_pem
from authz_service.audit.seals import PLAIN, Seal


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a journal."""
    asyncio.run(write(tmp_path / "journal", (6, 6), anchor_every=3))
    (tmp_path / "journal" / "anchor.key.pub").write_bytes(public_pem(KEY.public_key()))
    return tmp_path


def audit(home: Path, *arguments: str) -> tuple[int, str, str]:
    ended = run_cli("audit", *arguments, "--dir", str(home))
    return ended.returncode, ended.stdout, ended.stderr


def test_exit_codes_and_json(home: Path) -> None:
    """Issue 3: says which; exit code 1 on any finding. Ours: one JSON object for machines."""
    code, out, err = audit(home, "verify")
    assert (code, err) == (0, "")
    said = "journal: 18 records in 2 chains, 4 anchors within; 4 of 4 in the file met"
    assert out.splitlines()[-2:] == [said, "No finding."]

    path = home / "journal" / "journal-00000001.jsonl"
    chain = json.loads(lines(home / "journal")[0])["chain"]
    path.write_bytes(path.read_bytes().replace(b"tool-1 ", b"tool-9 ", 1))
    code, out, _ = audit(home, "verify")
    assert code == 1
    line = f"journal: {path.name}:3: chain {chain} seq 3: the content does not fit its hash [changed]"
    assert line in out.splitlines()
    code, out, _ = audit(home, "verify", "--json")
    document = json.loads(out)
    assert (code, document["ok"], document["findings_total"]) == (1, False, 1)
    assert document["findings"][0] == {
        "source": "journal",
        "kind": "changed",
        "chain": chain,
        "seq": 3,
        "last_seq": 3,
        "text": "the content does not fit its hash",
        "place": f"{path.name}:3",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "--no-journal"), "--no-journal needs --store"),
        (("verify", "--journal", "/nowhere"), "the journal in /nowhere cannot be read: No such file"),
        (("verify", "--key", "/nowhere"), "anchor public key /nowhere cannot be read"),
        (("verify", "--hmac-key", "/nowhere"), "HMAC key /nowhere cannot be read"),
        (("verify", "--store"), "clickhouse-reader.url does not exist"),
        (("verify", "--store", "--store-url", "ftp://x"), "the store's URL is not one"),
        (("verify", "--store", "--store-url", "http://127.0.0.1:1/mcp"), "the store at 127.0.0.1:1 does not answer"),
        (("anchors", "--journal", "/nowhere"), "there are no anchors in /nowhere"),
        (("key", "--key", "/nowhere"), "anchor public key /nowhere cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(home: Path, arguments: tuple[str, ...], said: str) -> None:
    """Ours: exit code 2 for what the person at the keyboard can mend."""
    code, _, err = audit(home, *arguments)

    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_key_and_anchors_are_shown(home: Path) -> None:
    """Issue 3: the public key and its id; the anchors, and a signature that does not hold."""
    code, out, _ = audit(home, "key")
    assert code == 0
    assert out.startswith(f"key id {anchors.key_id(KEY.public_key())}\n-----BEGIN PUBLIC KEY-----\n")

    code, out, _ = audit(home, "anchors")
    assert (code, out.count("good")) == (0, 4)
    (home / "other.pub").write_bytes(public_pem(OTHER_KEY.public_key()))
    code, out, _ = audit(home, "anchors", "--key", str(home / "other.pub"))
    assert (code, out.count("BAD")) == (1, 4)


def test_keyed_journal_needs_its_key(home: Path) -> None:
    """Issue 3: HMAC key optional."""
    key = home / "seal.key"
    key.write_bytes(os.urandom(48))
    key.chmod(0o600)
    asyncio.run(write(home / "journal", (3,), seal=Seal.keyed(key.read_bytes())))

    assert audit(home, "verify")[0] == 1
    assert audit(home, "verify", "--hmac-key", str(key))[0] == 0


def test_forged_record_cannot_play_with_the_terminal(home: Path) -> None:
    """Ours: what somebody forged is shown escaped."""
    line = b'{"kind":"start","chain":"\\u001b[2Jx","seq":1,"prev":"","ts":""'
    with (home / "journal" / "journal-00000001.jsonl").open("ab") as file:
        file.write(line + b',"hash":"%s"}\n' % PLAIN.digest(line + b"}").encode())

    code, out, _ = audit(home, "verify")

    assert code == 1
    assert "chain \\x1b[2Jx seq 1: does not follow record" in out
    assert "\x1b[2J" not in out


def test_progress_is_shown_on_a_terminal(home: Path) -> None:
    """Issue 3: it shows progress."""
    ours, theirs = os.openpty()
    command = (sys.executable, "-m", "secure_mcp_grpc", "audit", "verify", "--dir", str(home))
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)

    assert ended.returncode == 0
    assert "journal" in shown
    assert "%" in shown
