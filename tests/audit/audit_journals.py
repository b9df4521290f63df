"""Real journals, written by the real Journal, and what a verifier says of them."""

import asyncio
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry

from authz_service import journal_files
from authz_service.audit.anchoring import Anchoring, AnchorsFile
from authz_service.audit.anchors import AnchorBook
from authz_service.audit.findings import Report
from authz_service.audit.metrics import AuditMetrics
from authz_service.audit.reading import JournalReader, read_anchors
from authz_service.audit.seals import PLAIN, Seal
from authz_service.audit.verify import Keys, Verifier
from authz_service.journal import Journal
from secure_mcp_grpc.records import DecisionRecord, timestamp

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
KEYS = Keys(anchor_keys=(KEY.public_key(),))


def record(tool: str = "x") -> DecisionRecord:
    return DecisionRecord(
        chain="", seq=0, ts=timestamp(time.time_ns() // 1000), decision="allow", tool=tool, identity="model-a"
    )


async def write(
    directory: Path,
    chains: tuple[int, ...] = (5, 5, 5),
    *,
    rotate_bytes: int = 4096,
    seal: Seal = PLAIN,
    anchor_every: int = 0,
    node: str = "node",
) -> None:
    """A journal of `chains`, each with so many decisions after its start."""
    for count in chains:
        journal = Journal(directory, node, rotate_bytes=rotate_bytes, seal=seal)
        anchoring = Anchoring(journal, KEY, AnchorsFile(directory / "anchors.jsonl"), AuditMetrics(CollectorRegistry()))
        for number in range(count):
            journal.append(record(f"tool-{number} ä"))
            if anchor_every and number % anchor_every == anchor_every - 1:
                await anchoring.anchor()
        if anchor_every:
            await anchoring.close()
        await journal.close()


def written(directory: Path, chains: tuple[int, ...] = (5, 5, 5), **options: object) -> list[bytes]:
    """The lines of such a journal."""
    asyncio.run(write(directory, chains, **options))  # type: ignore[arg-type]
    return lines(directory)


def lines(directory: Path) -> list[bytes]:
    return [line for path in journal_files.files(directory).values() for line in path.read_bytes().splitlines()]


def verify_lines(content: bytes | list[bytes], *, keys: Keys = KEYS, book: AnchorBook | None = None) -> Report:
    """What a verifier says of a journal with this content in one file."""
    if isinstance(content, bytes):
        content = content.split(b"\n")
        content = content[:-1] if not content[-1] else content
    report = Report()
    verifier = Verifier("journal", report, keys, book or AnchorBook())
    verifier.feed(content, lambda index: f"line:{index + 1}")
    verifier.finish()
    return report


def verify_directory(directory: Path, *, keys: Keys = KEYS, anchors: Path | None = None) -> Report:
    report, book = Report(), AnchorBook()
    if anchors:
        read_anchors(anchors, keys, book, report)
    verifier = Verifier("journal", report, keys, book)
    with JournalReader(directory) as reader:
        for block in reader.blocks(report):
            verifier.feed(block.lines, block.place)
    verifier.finish()
    return report
