"""Settings: one file plus the environment, and one clear line for what is wrong."""

from pathlib import Path
from typing import ClassVar

import pytest

from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.settings import CommonSettings, read_config


class PartSettings(CommonSettings):
    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"
    metrics_port: int = 9090
    dry_run: bool = False
    names: list[str] = []
    password: str = ""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "sidecar.yaml"


def test_the_environment_overrides_the_file_and_the_file_the_defaults(config: Path) -> None:
    """Ours: default, file, environment."""
    config.write_text("common: {node_id: n1}\nauthz: {metrics_port: 1, names: [a]}\nbridge: {anything: 1}\n")

    settings = PartSettings.load({"MCP_AUTHZ_METRICS_PORT": "2", "MCP_TRUST_DOMAINS": "x.org, y.org"}, config)

    assert (settings.node_id, settings.metrics_port, settings.names) == ("n1", 2, ["a"])
    assert settings.trust_domains == ["x.org", "y.org"]
    assert settings.dry_run is False


def test_false_in_words_is_false() -> None:
    """Ours: bool("False") is a trap."""
    assert PartSettings.load({"MCP_AUTHZ_DRY_RUN": "False"}).dry_run is False


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"MCP_AUTHZ_METRICS_PORT": "many"}, ["MCP_AUTHZ_METRICS_PORT", "many", "integer"]),
        ({"MCP_AUTHZ_METRIC_PORT": "1"}, ["unknown setting MCP_AUTHZ_METRIC_PORT"]),
        ({"MCP_NODE_ID": "a b"}, ["MCP_NODE_ID", "a b"]),
        ({"MCP_LOG_LEVEL": "LOUD"}, ["MCP_LOG_LEVEL", "LOUD", "WARNING"]),
        ({"MCP_TRUST_DOMAINS": ""}, ["MCP_TRUST_DOMAINS"]),
        ({"MCP_AUTH_TYPE": "tls"}, ["MCP_AUTH_TYPE", "tls", "mtls+jwt"]),
        ({"MCP_AUTH_TYPE": "none"}, ["MCP_ALLOW_NO_AUTH", "False", "must be true"]),
        ({"MCP_CONFIG": "/nonexistent/sidecar.yaml"}, ["/nonexistent/sidecar.yaml", "No such file"]),
    ],
)
def test_a_bad_variable_is_named_with_its_value(environ: dict[str, str], words: list[str]) -> None:
    """Ours: a bad value stops the start, naming the variable, the value and what was expected."""
    with pytest.raises(UserError) as caught:
        PartSettings.load(environ)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_secret_is_not_repeated_in_the_error() -> None:
    """Ours: logs never hold secrets."""

    class Strict(PartSettings):
        store_password: int = 0

    with pytest.raises(UserError) as caught:
        Strict.load({"MCP_AUTHZ_STORE_PASSWORD": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("authz: {metrics_port: many}", ["authz.metrics_port", "many"]),
        ("authz: {metric_port: 1}", ["unknown setting", "authz.metric_port"]),
        ("common: {nodeid: 1}", ["unknown setting", "common.nodeid"]),
        ("autz: {}", ["unknown section 'autz'"]),
        ("- a", ["mapping of sections"]),
        ("authz: 1", ["mapping of sections"]),
        ("authz: {\n  a: [", ["line 2", "not valid YAML"]),
        ("a: !!python/object/apply:os.system ['true']", ["not valid YAML"]),
    ],
)
def test_a_bad_file_is_named_with_the_place(config: Path, text: str, words: list[str]) -> None:
    """Ours: clear errors for bad YAML."""
    config.write_text(text)
    with pytest.raises(UserError) as caught:
        PartSettings.load({}, config)
    assert all(word in str(caught.value) for word in [*words, str(config)])


def test_bytes_that_are_not_text_are_refused(config: Path) -> None:
    """Ours: clear errors for bad YAML."""
    config.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_config(config)


def test_no_authentication_takes_two_decisions() -> None:
    """Issue 3: `none` starts only with an explicit development switch."""
    assert PartSettings.load({"MCP_AUTH_TYPE": "none", "MCP_ALLOW_NO_AUTH": "true"}).auth_type == "none"
    assert PartSettings.load({"MCP_ALLOW_NO_AUTH": "true"}).auth_type == "mtls"


@pytest.mark.parametrize("key", ["auth_type: jwt", "allow_no_auth: true"])
def test_how_clients_are_known_is_said_once_for_all_parts(config: Path, key: str) -> None:
    """Ours: Envoy and authz_service must read the same; a part's own section cannot differ."""
    config.write_text(f"authz: {{{key}}}\n")
    with pytest.raises(UserError, match="belongs to section common"):
        PartSettings.load({}, config)
