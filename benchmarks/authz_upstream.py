"""What stands behind Envoy while its hops are measured: a service that answers with what it is asked."""

import asyncio
import sys
from pathlib import Path

from secure_mcp_grpc.health import Health
from secure_mcp_grpc.http2 import Server
from secure_mcp_grpc.http2.health import health_streaming, health_unary

CALL = "/secure_mcp_grpc.v1.McpTransport/Call"


async def main(socket: Path) -> None:
    health = Health()
    await health.serving()
    server = Server({CALL: bytes, **health_unary(health)}, health_streaming(health))
    await server.start(socket)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
