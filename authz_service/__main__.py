"""`python -m authz_service`: wires the parts together, starts them, and ends them in order."""

import asyncio
import time
from contextlib import AsyncExitStack

from authz_service.assemble import assemble
from authz_service.audit.anchoring import ANCHORS_FILE, Anchoring, AnchorsFile
from authz_service.audit.keys import read_anchor_key, read_seal
from authz_service.audit.metrics import AuditMetrics
from authz_service.audit.seals import PLAIN
from authz_service.journal import Journal
from authz_service.metrics import Metrics
from authz_service.policy import PolicyError
from authz_service.reload import PolicyFiles, PolicyWatcher
from authz_service.server import PartHealth, new_server
from authz_service.service import PolicyDesk, keep_journal, keep_pruned, policy_record, watch_health
from authz_service.settings import AuthzSettings
from authz_service.shipper import Shipper
from secure_mcp_grpc import als, lifecycle
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.metrics import new_registry, serve_metrics

__all__ = ["run"]

PART = "authz"
_DRAIN_S = 1.0
_FLUSH_S = 1.0


async def run(settings: AuthzSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = lifecycle.stop_event()
    socket = lifecycle.socket_path(lifecycle.private_directory(settings.run_dir), PART)
    registry = new_registry(PART)
    metrics = Metrics(registry)
    files = PolicyFiles.of(settings, token_roles=settings.brings_roles)
    try:
        contents = files.read()
        policy = files.load(contents)
    except PolicyError as error:
        raise UserError(f"{error}; mend it, or name other files with policy_file and model_file") from None
    seal = read_seal(settings.journal_key_file) if settings.journal_key_file else PLAIN
    journal = Journal(settings.journal_dir, settings.node_id, rotate_bytes=settings.journal_rotate_bytes, seal=seal)
    anchoring = Anchoring(
        journal,
        read_anchor_key(settings.anchor_key_file or settings.journal_dir / "anchor.key"),
        AnchorsFile(settings.journal_dir / ANCHORS_FILE),
        AuditMetrics(registry),
    )
    channel = als.sink_channel(settings.sink_address or f"unix:{settings.run_dir.absolute() / 'sink.sock'}")
    shipper = Shipper(
        settings.journal_dir,
        channel,
        settings.node_id,
        metrics,
        max_batch=settings.ship_batch,
        delay_s=settings.ship_delay_s,
    )
    journal.on_append = shipper.written
    journal.note(policy_record(policy.version, "loaded"))
    metrics.policy_in_force(policy.version, policy.size, time.time())
    metrics.journal_available.set_function(lambda: float(journal.available))
    metrics.journal_records.set_function(lambda: float(journal.seq))
    metrics.journal_unshipped.set_function(lambda: float(shipper.unshipped))
    closing = AsyncExitStack()
    service = assemble(settings, policy, journal, metrics, registry, closing)
    checker = service.checker
    desk = PolicyDesk(checker, journal, metrics)
    watcher = PolicyWatcher(files, contents, desk.loaded, desk.refused, poll_s=settings.policy_poll_s)
    if service.announcer is not None:
        service.announcer.connect(watcher.announced, watcher.on_loaded)
    components = {"policy": lambda: not watcher.problem} | service.components
    health = PartHealth()

    with serve_metrics(registry, settings.metrics_host, settings.metrics_port, PART) as metrics_address:
        server = new_server(settings.server, service.routes, health, socket)
        try:
            async with asyncio.TaskGroup() as jobs:  # a job that fails is a bug: the service ends and is restarted
                running = [
                    jobs.create_task(watcher.run()),
                    jobs.create_task(keep_journal(journal, settings.journal_fsync_s)),
                    jobs.create_task(anchoring.run(settings.anchor_interval_s)),
                    jobs.create_task(keep_pruned(journal, shipper, settings.journal_keep_bytes)),
                    jobs.create_task(watch_health(journal, components, health)),
                    *map(jobs.create_task, service.jobs),
                ]
                shipping = jobs.create_task(shipper.run())
                await service.settled()
                await server.start()
                lifecycle.announce(
                    settings.run_dir, PART, {"grpc": f"unix:{socket.absolute()}", "metrics": metrics_address}
                )
                await stop.wait()
                lifecycle.withdraw(settings.run_dir, PART)
                await health.stopping()
                await server.stop(_DRAIN_S)
                for job in running:
                    job.cancel()
                await anchoring.close()
                await shipper.close(shipping, timeout_s=_FLUSH_S)
        finally:
            lifecycle.withdraw(settings.run_dir, PART)
            await server.stop(0)
            socket.unlink(missing_ok=True)
            await closing.aclose()
            await journal.close()
            await channel.close(grace=None)


if __name__ == "__main__":
    lifecycle.main(PART, AuthzSettings, run)
