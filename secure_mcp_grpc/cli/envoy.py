"""`secure-mcp-grpc envoy`: the configuration that Envoy gets."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.errors import UserError

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


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def _rendered(config: Path | None, home: Path | None) -> str:
    import os

    from secure_mcp_grpc import envoy_config
    from secure_mcp_grpc.stack.home import Home

    environ = dict(os.environ)
    environ.setdefault("MCP_RUN_DIR", str(Home.locate(home).run_dir))
    settings = envoy_config.EnvoySettings.load(environ, config)
    return envoy_config.render(settings)
