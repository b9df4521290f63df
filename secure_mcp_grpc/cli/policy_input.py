"""What the policy commands read: files, JSON arguments, role lists and moments. Every error is a `UserError`."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import typer

from secure_mcp_grpc.calls import Malformed, parse_json_object
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from authz_service.policy import Problem
    from authz_service.workbench.book import Book
    from authz_service.workbench.expectations import Expectation

__all__ = [
    "ConfigOption",
    "Files",
    "JsonOption",
    "ModelOption",
    "PolicyOption",
    "arguments",
    "expectations",
    "hint",
    "moment",
    "read",
    "role_names",
]

PolicyOption = Annotated[
    Path | None, typer.Option("--policy", help="Policy file.", show_default="DIR/policy.csv", metavar="FILE")
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", help="Casbin model.", show_default="the service's own", metavar="FILE")
]
ConfigOption = Annotated[Path | None, typer.Option(help="Settings, sidecar.yaml.", envvar="MCP_CONFIG")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_AGO: Final = re.compile(r"([0-9]{1,9})\s*([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Files:
    """Where the service finds its policy and model, and what it knows beside them."""

    policy: Path
    model: Path
    tools: Path | None
    token_roles: bool
    methods: frozenset[str]

    @classmethod
    def find(cls, policy: Path | None, model: Path | None, home: Path | None, config: Path | None) -> Self:
        """What is named on the command line, else what the service's settings name, else the sidecar's own policy."""
        with _engine():
            from authz_service.settings import AuthzSettings
        from secure_mcp_grpc.stack.home import Home

        settings = AuthzSettings.load(os.environ, config)
        own = settings.policy_file if "policy_file" in settings.model_fields_set else Home.locate(home).policy
        return cls(
            policy or own,
            model or settings.model_file,
            settings.tools_file,
            settings.token_roles or settings.brings_roles,
            frozenset(settings.extra_methods),
        )

    def load(self) -> "Book":
        """The policy as the service would load it, named in errors as it was named here."""
        from authz_service.policy import PolicyError
        from authz_service.workbench.book import Book

        model, policy = read(self.model), read(self.policy)
        names = {"model_name": str(self.model), "policy_name": str(self.policy)}
        try:
            return Book(model, policy, methods=self.methods, **names)
        except PolicyError as error:
            raise UserError(str(error)) from None

    def problems(self) -> "Sequence[Problem]":
        """All that the service would refuse or warn about."""
        from authz_service.policy import Checks, PolicyError, read_catalog
        from authz_service.workbench.book import problems_of

        try:
            catalog = read_catalog(read(self.tools), str(self.tools)) if self.tools is not None else None
        except PolicyError as error:
            raise UserError(str(error)) from None
        checks = Checks(catalog=catalog, token_roles=self.token_roles, methods=self.methods)
        names = {"model_name": str(self.model), "policy_name": str(self.policy)}
        return problems_of(read(self.model), read(self.policy), checks, **names)


def arguments(text: str) -> dict[str, Any]:
    """`--args`, read as strictly as a call's."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--args is not JSON: {error}") from None
    try:
        return parse_json_object(text.encode("utf-8", "surrogatepass"))
    except Malformed as error:
        raise UserError(str(error).replace("params_json", "--args")) from None


def role_names(text: str) -> tuple[str, ...]:
    """`reader,writer` as policy names them: `role:reader`, `role:writer`."""
    with _engine():
        from authz_service.workbench.questions import role_name

    try:
        return tuple(dict.fromkeys(role_name(name) for name in text.split(",") if name.strip()))
    except ValueError as error:
        raise UserError(f"--roles has {error}") from None


def hint(method: str, name: str, methods: frozenset[str]) -> None:
    """Says on standard error if no client asks this; `methods` are those of extensions."""
    from authz_service.workbench.questions import oddity

    if odd := oddity(method, name, methods):
        typer.echo(f"hint: {odd}", err=True)


def expectations(path: Path, methods: frozenset[str]) -> "tuple[Expectation, ...]":
    """CSV where the name ends so, YAML otherwise; `methods` are those of extensions."""
    with _engine():
        from authz_service.workbench.expectations import BadExpectations, read_csv, read_yaml

    try:
        text = read(path).decode()
        return (read_csv if path.suffix.lower() == ".csv" else read_yaml)(text, methods)
    except UnicodeDecodeError:
        raise UserError(f"{path}: the text is not UTF-8") from None
    except BadExpectations as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise UserError(f"{where}: {error}") from None


def moment(text: str, now: datetime, option: str) -> datetime:
    """`24h` before `now`, or an RFC 3339 time; without a zone it is UTC."""
    if found := _AGO.fullmatch(text.strip()):
        try:
            return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError:
            raise UserError(f"{option} {text}: that is before all time") from None
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UserError(
            f"{option} {text}: expected a span like 30m, 24h or 7d, or a time like 2026-11-20T21:40:00Z"
        ) from None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


@contextmanager
def _engine() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: pip install 'secure-mcp-grpc[sidecar]'") from None
