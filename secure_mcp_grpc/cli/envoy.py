"""`secure-mcp-grpc envoy`: the configuration that Envoy gets."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from secure_mcp_grpc.envoy_settings import EnvoySettings

__all__ = ["app"]

app = typer.Typer(help="Render and validate Envoy's configuration.", no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option(help="Settings, sidecar.yaml.", envvar="MCP_CONFIG")]


@app.command()
def render(config: ConfigOption = None, home: HomeOption = None) -> None:
    """Print the configuration that the settings give."""
    sys.stdout.write(_rendered(config, home))


@app.command()
def validate(
    config: ConfigOption = None,
    home: HomeOption = None,
    file: Annotated[Path | None, typer.Option(help="Validate this file instead.")] = None,
) -> None:
    """Check the configuration against Envoy's types and, where there is an Envoy, with `envoy --mode validate`."""
    from secure_mcp_grpc import envoy_config

    envoy_config.validate(_read(file) if file else _rendered(config, home))
    sys.stderr.write("The configuration is valid.\n")


@app.command()
def trust(
    config: ConfigOption = None,
    home: HomeOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until SIGTERM or Ctrl-C, looking every second.")
    ] = False,
) -> None:
    """Put the CAs of federated trust domains in force in a running Envoy; a sidecar's own supervisor does it itself."""
    import signal
    import threading

    from secure_mcp_grpc import envoy_trust, logs

    settings = _settings(config, home)
    if not settings.federated:
        raise UserError("there are no federated trust domains; name their CAs in MCP_FEDERATED_CA")
    changed = envoy_trust.refresh_trust(settings)
    sys.stderr.write("The CAs are in force.\n" if changed else "Nothing has changed.\n")
    if not watch:
        return
    logs.configure("trust", level=settings.log_level, form=settings.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    envoy_trust.keep_trust(settings, stop)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def _rendered(config: Path | None, home: Path | None) -> str:
    from secure_mcp_grpc import envoy_config

    return envoy_config.render(_settings(config, home))


def _settings(config: Path | None, home: Path | None) -> "EnvoySettings":
    import os

    from secure_mcp_grpc import envoy_config
    from secure_mcp_grpc.stack.home import Home

    environ = dict(os.environ)
    environ.setdefault("MCP_RUN_DIR", str(Home.locate(home).run_dir))
    return envoy_config.EnvoySettings.load(environ, config)
