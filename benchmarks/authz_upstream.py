"""What stands beside Envoy while its hops are measured.

`authz_upstream.py SOCKET` serves the bridge's calls, answering with what it is asked; with `--allow` it serves
ext_authz and allows everything, with an answer made beforehand: what no decision can be cheaper than.
"""

import asyncio
import sys
from pathlib import Path

from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from authz_service.server import METHOD
from secure_mcp_grpc.health import Health
from secure_mcp_grpc.http2 import Server
from secure_mcp_grpc.http2.health import health_streaming, health_unary

CALL = "/secure_mcp_grpc.v1.McpTransport/Call"


def _permission() -> bytes:
    answer = CheckResponse()
    answer.dynamic_metadata.update({"decision": "allow", "subject": "bench", "method": "tools/call", "tool": "add"})
    for key, value in (("x-mcp-subject", "bench"), ("x-mcp-target", "tools/call add"), ("x-mcp-decision", "chain:1")):
        option = answer.ok_response.headers.add(append_action=2)
        option.header.key, option.header.value = key, value
    return bytes(answer.SerializeToString())


async def main(socket: Path, *, allow: bool) -> None:
    health = Health()
    await health.serving()
    permission = _permission()
    unary = {METHOD: lambda _: permission} if allow else {CALL: bytes}
    server = Server({**unary, **health_unary(health)}, health_streaming(health))
    await server.start(socket)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), allow="--allow" in sys.argv))
