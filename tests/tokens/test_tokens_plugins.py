"""Authenticators of other packages: found, used, and refused with the package's name where they do not work."""

import hashlib
import json
import sys
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from token_kit import show
from token_service import ROOT, call_of, service

from authz_service.case import Case
from authz_service.identity import IdentityReader
from authz_service.policy import Policy, load_policy
from authz_service.settings import AuthzSettings
from authz_service.steps.identity import IdentityStep
from authz_service.tokens.build import build_authenticators
from authz_service.tokens.settings import TokenSettings
from authz_service.verdict import FAULT
from secure_mcp_grpc.authenticators import GROUP, Outcome, Presented, Principal
from secure_mcp_grpc.errors import UserError

EXAMPLE = Path(__file__).parent / "example_provider"
SETTINGS = {"keys": {"robot": hashlib.sha256(b"beep").hexdigest()}, "roles": ["machine"]}
POLICY = "p, user:api-key:robot, tools/call, weld, allow\np, role:machine, tools/call, drill, allow\n"


def installed(directory: Path, name: str = "api-key-authenticator", target: str | None = None) -> Path:
    """The package as an installer leaves it: its metadata beside its modules. `target` replaces its entry point."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    points = project["entry-points"][GROUP] if target is None else {"api-key": target}
    info = directory / f"{name.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['version']}\n")
    lines = [f"[{GROUP}]", *(f"{point} = {where}" for point, where in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return directory


def settings_of(**changed: object) -> TokenSettings:
    good = {"auth_type": "jwt", "authenticators": ["api-key"], "authenticator_settings": {"api-key": SETTINGS}}
    return TokenSettings.model_validate(good | changed)


async def test_authenticator_of_another_package_decides_in_a_running_service(tmp_path: Path) -> None:
    """Issue 3: providers are a small protocol with entry points; an example of a third party."""
    path = f"{ROOT}:{installed(tmp_path)}:{EXAMPLE}"
    environment = {
        "PYTHONPATH": path,
        "MCP_AUTH_TYPE": "oauth2",
        "MCP_AUTHZ_AUTHENTICATORS": "jwt,introspection,api-key",
        "MCP_AUTHZ_AUTHENTICATOR_SETTINGS": json.dumps({"api-key": SETTINGS}),
    }
    async with service(POLICY, **environment) as authz:
        accepted = await authz.check(call_of("weld", "ApiKey robot:beep"))
        by_role = await authz.check(call_of("drill", "ApiKey robot:beep"))
        wrong = await authz.check(call_of("weld", "ApiKey robot:boop"))
        other = await authz.check(call_of("weld", "Bearer something"))
        recorded = authz.records()

    assert (accepted.code, accepted.metadata["user"]) == (0, "user:api-key:robot")
    assert by_role.code == 0
    assert (wrong.code, wrong.metadata["reason"], wrong.sentence) == (16, "token_inactive", "the API key is not known")
    assert (other.code, other.metadata["reason"]) == (16, "token_not_accepted")
    assert recorded[0]["user"] == "user:api-key:robot"


def test_factory_receives_the_settings_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol: its factory takes the mapping under that name."""
    monkeypatch.syspath_prepend(str(installed(tmp_path)))
    monkeypatch.syspath_prepend(str(EXAMPLE))
    (authenticator,) = build_authenticators(settings_of(), CollectorRegistry(), wait_s=1).authenticators

    principal = authenticator.authenticate(show("robot:beep", scheme="ApiKey "))
    assert isinstance(principal, Principal)
    assert principal.roles == ("role:machine",)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("no_such_module:create", "'api-key' of the package broken-package cannot be made: ModuleNotFoundError"),
        ("json:no_such_name", "'api-key' of the package broken-package cannot be made: AttributeError"),
        ("json:loads", "'api-key' of the package broken-package cannot be made: TypeError"),
        ("builtins:dict", "'api-key' of the package broken-package made something without authenticate()"),
    ],
)
def test_package_that_does_not_work_stops_the_start_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, expected: str
) -> None:
    """Issue 3: loading errors name the package."""
    monkeypatch.syspath_prepend(str(installed(tmp_path, "broken-package", target)))

    with pytest.raises(UserError) as caught:
        build_authenticators(settings_of(), CollectorRegistry(), wait_s=1)

    assert expected in str(caught.value)


def test_name_without_a_package_stops_the_start() -> None:
    """Ours: a chain of authenticators is never shorter than what is written."""
    with pytest.raises(UserError, match="no installed package provides 'api-key'"):
        build_authenticators(settings_of(), CollectorRegistry(), wait_s=1)


def test_name_with_two_packages_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: which of them would be meant is nobody's guess."""
    for name in ("one-package", "two-package"):
        monkeypatch.syspath_prepend(str(installed(tmp_path / name, name)))

    with pytest.raises(UserError, match="several packages provide 'api-key': one-package, two-package"):
        build_authenticators(settings_of(), CollectorRegistry(), wait_s=1)


def test_settings_without_an_authenticator_stop_the_start() -> None:
    """Ours: what is configured and not used is a mistake."""
    with pytest.raises(UserError, match=r"authenticator_settings\.api-key"):
        build_authenticators(settings_of(auth_type="mtls", authenticators=["jwt"]), CollectorRegistry(), wait_s=1)


@pytest.mark.parametrize(
    "principal",
    [
        Principal("alice", "x", expires_s=2e9),
        Principal("user:x:alice", "x", expires_s=1),
        Principal("user:x:alice", "x", ("model-a",), expires_s=2e9),
    ],
)
def test_authenticator_that_breaks_its_promise_gives_nobody_an_identity(principal: Principal) -> None:
    """Ours: a workload's name among a user's roles would be a workload's rights for a user."""
    case = Case(call_of("weld", "ApiKey x").attributes, 1.9e9, policy_of_nobody())
    step = IdentityStep("jwt", IdentityReader(["mcp.internal"], 1), [Fixed(principal)])

    assert step.judge(case) == FAULT
    assert case.principal is None


class Fixed:
    """An authenticator that always answers the same."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def authenticate(self, presented: Presented) -> Outcome:
        return self._outcome


def policy_of_nobody() -> Policy:
    model = AuthzSettings.model_fields["model_file"].default.read_bytes()
    return load_policy(model, b"", model_name="m", policy_name="p", cached=1)


def test_example_needs_the_public_protocol_only() -> None:
    """Issue 3: the protocol is small and public."""
    source = (EXAMPLE / "api_key_authenticator" / "__init__.py").read_text()
    ours = [line for line in source.splitlines() if "import" in line and ("authz_service" in line or "secure_" in line)]

    assert len(ours) == 1
    assert ours[0].startswith("from secure_mcp_grpc.authenticators import")
    assert "authz_service" in sys.modules
