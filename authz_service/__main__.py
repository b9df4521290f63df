"""`python -m authz_service`: starts the parts of the service, and ends them in order."""

import asyncio
import time
from contextlib import AsyncExitStack

from authz_service.assemble import assemble
from authz_service.books import open_books
from authz_service.metrics import Metrics
from authz_service.policy import PolicyError
from authz_service.reload import PolicyFiles, PolicyWatcher
from authz_service.server import PartHealth, new_server
from authz_service.service import PolicyDesk, ailment, policy_record, watch_health
from authz_service.settings import AuthzSettings
from secure_mcp_grpc import lifecycle
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.metrics import new_registry, serve_metrics

__all__ = ["run"]

PART = "authz"
_DRAIN_S = 1.0


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
    books = open_books(settings, metrics, registry)
    journal = books.journal
    journal.note(policy_record(policy.version, "loaded"))
    metrics.policy_in_force(policy.version, policy.size, time.time())
    closing = AsyncExitStack()
    service = assemble(settings, policy, journal, metrics, registry, closing)
    desk = PolicyDesk(service.checker, journal, metrics)
    watcher = PolicyWatcher(files, contents, desk.loaded, desk.refused, poll_s=settings.policy_poll_s)
    if service.announcer is not None:
        service.announcer.connect(watcher.announced, watcher.on_loaded)
    components = {"policy": lambda: not watcher.problem} | service.components
    health = PartHealth()
    background = [
        watcher.run(),
        watch_health(journal, components, health, watcher.judged),
        *books.jobs(),
        *service.jobs,
    ]

    with serve_metrics(registry, settings.metrics_host, settings.metrics_port, PART) as metrics_address:
        server = new_server(settings.server, service.routes, health, socket)
        try:
            async with asyncio.TaskGroup() as jobs:  # a job that fails is a bug: the service ends and is restarted
                running = [jobs.create_task(job) for job in background]
                shipping = jobs.create_task(books.shipper.run())
                await service.settled()
                await server.start()
                endpoints = {"grpc": f"unix:{socket.absolute()}", "metrics": metrics_address}
                ailments = {name: ailment(name) for name in ("journal", *components)}
                lifecycle.announce(settings.run_dir, PART, endpoints, ailments)
                await stop.wait()
                lifecycle.withdraw(settings.run_dir, PART)
                await health.stopping()
                await server.stop(_DRAIN_S)
                for job in running:
                    job.cancel()
                await books.settle(shipping)
        finally:
            lifecycle.withdraw(settings.run_dir, PART)
            await server.stop(0)
            socket.unlink(missing_ok=True)
            await closing.aclose()
            await books.close()


if __name__ == "__main__":
    lifecycle.main(PART, AuthzSettings, run)
