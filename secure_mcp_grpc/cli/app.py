"""The commands' tree.

Each command imports what it needs when it runs, so that --help is quick and extras stay extra.
"""

import typer

from secure_mcp_grpc.cli import audit, certs, client, connect, envoy, health, policy, proto, revoke, run, token, tools

app = typer.Typer(
    name="secure-mcp-grpc",
    help="Authenticate, authorize, limit and record every MCP message between models and tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("up", context_settings={"allow_extra_args": True, "allow_interspersed_args": False})(run.up)
app.command("demo")(run.demo)
app.command("health")(health.health)
app.command("list")(client.list_tools)
app.command("call")(client.call_tool)
app.command("connect")(connect.connect)
app.command("proto")(proto.proto)
app.add_typer(certs.app, name="certs")
app.add_typer(envoy.app, name="envoy")
app.add_typer(audit.app, name="audit")
app.add_typer(policy.app, name="policy")
app.add_typer(token.app, name="token")
app.add_typer(tools.app, name="tools")
revoke.add_to(app)
