"""The journal and what follows it: anchors, and the way to the sink. Opened first and closed last."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import grpc
from prometheus_client import CollectorRegistry

from authz_service.audit.anchoring import ANCHORS_FILE, Anchoring, AnchorsFile
from authz_service.audit.keys import read_anchor_key, read_seal
from authz_service.audit.metrics import AuditMetrics
from authz_service.audit.seals import PLAIN
from authz_service.journal import Journal
from authz_service.metrics import Metrics
from authz_service.service import keep_journal, keep_pruned
from authz_service.settings import AuthzSettings
from authz_service.shipper import Shipper
from secure_mcp_grpc import als

__all__ = ["Books", "open_books"]

_FLUSH_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Books:
    journal: Journal
    anchoring: Anchoring
    shipper: Shipper
    channel: grpc.aio.Channel
    settings: AuthzSettings

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """Run until they are cancelled, beside `shipper.run`, which ends by itself after `settle`."""
        settings = self.settings
        return [
            keep_journal(self.journal, settings.journal_fsync_s),
            self.anchoring.run(settings.anchor_interval_s),
            keep_pruned(self.journal, self.shipper, settings.journal_keep_bytes),
        ]

    async def settle(self, shipping: Any) -> None:
        """After the last decision: anchor what is new, ship what is left as far as a second reaches."""
        await self.anchoring.close()
        await self.shipper.close(shipping, timeout_s=_FLUSH_S)

    async def close(self) -> None:
        await self.journal.close()
        await self.channel.close(grace=None)


def open_books(settings: AuthzSettings, metrics: Metrics, registry: CollectorRegistry) -> Books:
    """Raises `UserError` for a journal or a key that cannot be used."""
    seal = read_seal(settings.journal_key_file) if settings.journal_key_file else PLAIN
    directory = settings.journal_dir
    journal = Journal(directory, settings.node_id, rotate_bytes=settings.journal_rotate_bytes, seal=seal)
    anchoring = Anchoring(
        journal,
        read_anchor_key(settings.anchor_key_file or directory / "anchor.key"),
        AnchorsFile(directory / ANCHORS_FILE),
        AuditMetrics(registry),
    )
    channel = als.sink_channel(settings.sink_address or f"unix:{settings.run_dir.absolute() / 'sink.sock'}")
    shipper = Shipper(
        directory,
        channel,
        settings.node_id,
        metrics,
        max_batch=settings.ship_batch,
        delay_s=settings.ship_delay_s,
    )
    journal.on_append = shipper.written
    metrics.journal_available.set_function(lambda: float(journal.available))
    metrics.journal_records.set_function(lambda: float(journal.seq))
    metrics.journal_unshipped.set_function(lambda: float(shipper.unshipped))
    return Books(journal, anchoring, shipper, channel, settings)
