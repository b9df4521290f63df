"""Rendering and judging Envoy's configuration."""

import asyncio
import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from envoy_harness import DOMAIN, Pki, call, running_pod
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_mcp_grpc import envoy_config, envoy_types, headers
from secure_mcp_grpc.envoy_config import EnvoySettings
from secure_mcp_grpc.errors import UserError


def test_the_defaults_are_valid() -> None:
    """Issue: `envoy --mode validate` on what is rendered, through envoy-data-plane types."""
    envoy_config.validate(envoy_config.render(EnvoySettings()))


def test_every_setting_at_its_bounds_is_valid() -> None:
    """Ours: a setting that is accepted renders to what Envoy accepts."""
    peers = ["15001=model-b@model-b.pods:8443", "0=spiffe://other.mcp/x/y@[::1]:1", "15002=z@10.0.0.1:65535"]
    least = {"max_request_bytes": 1024, "max_call_s": 0.001, "max_stream_s": 0.001, "max_connection_s": 0.001}
    odd = EnvoySettings(
        host="::1",
        port=0,
        trust_domains=["a.mcp", "b-c.mcp"],
        peers=peers,
        node_id="x" * 128,
        per_client_per_second=1,
        per_client_burst=1,
        max_identities=1,
        max_streams=1,
        max_heap_bytes=64 * 1_048_576,
        **least,
    )

    envoy_config.validate(envoy_config.render(odd))


def test_nothing_is_left_to_fill_in() -> None:
    """Ours: every placeholder of the templates has a value."""
    text = envoy_config.render(EnvoySettings(peers=["1=b@b:1"]))

    assert "${" not in text


DEFAULT = yaml.safe_load(envoy_config.render(EnvoySettings()))
Change = Callable[[Any], object]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(stray=1), "stray"),
        (lambda d: d["admin"].update(address="x"), "admin.address"),
        (lambda d: ingress(d).update(enable_reuse_port="yes"), "static_resources.listeners[0].enable_reuse_port"),
        (lambda d: ingress(d)["address"]["socket_address"].update(port_value="x"), "socket_address.port_value"),
        (lambda d: clusters(d)[0].update(type="STATICX"), "static_resources.clusters[0].type"),
        (lambda d: clusters(d)[0].update(connect_timeout="soon"), "static_resources.clusters[0].connect_timeout"),
        (lambda d: clusters(d)[0].update(name=5), "static_resources.clusters[0].name"),
        (lambda d: clusters(d)[0].update(load_assignment=[]), "static_resources.clusters[0].load_assignment"),
        (lambda d: d["static_resources"].update(clusters={}), "static_resources.clusters"),
        (lambda d: clusters(d)[0].update(cluster_type={"name": "x"}), "exclude each other"),
        (lambda d: manager(d)["http_filters"][2]["typed_config"].update(failure_mode=True), "failure_mode"),
        (lambda d: manager(d).update({"@type": "type.googleapis.com/os.path"}), "@type"),
        (lambda d: manager(d).pop("@type"), "@type"),
        (lambda d: manager(d)["route_config"]["virtual_hosts"][0].update(domains=[]), "Domains"),
    ],
)
def test_a_mistake_is_refused_by_its_path(change: Change, named: str) -> None:
    """Ours: unknown fields and wrong types are named; what only Envoy knows is refused in Envoy's words."""
    document = copy.deepcopy(DEFAULT)
    change(document)

    with pytest.raises(UserError) as refusal:
        envoy_config.validate(yaml.safe_dump(document))

    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "text", "1"])
def test_what_is_not_a_configuration_is_refused(text: str) -> None:
    """Ours: one clear line, whatever the file holds."""
    with pytest.raises(UserError):
        envoy_config.validate(text)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), value=json)
def test_any_value_anywhere_is_judged_without_a_crash(data: st.DataObject, value: Any) -> None:
    """Ours: a document is accepted or refused with a UserError."""
    document = copy.deepcopy(DEFAULT)
    place: Any = document
    for _ in range(data.draw(st.integers(0, 6))):
        keys = list(place) if isinstance(place, dict) else range(len(place))
        inner = [key for key in keys if isinstance(place[key], dict | list) and place[key]]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
    place[data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))] = value
    with contextlib.suppress(UserError):
        envoy_types.bootstrap(document)


@given(
    run=st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda name: name not in (".", "..")
    )
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_settings_cannot_change_the_structure(run: str) -> None:
    """Ours: placeholders are filled in after parsing, whatever a value looks like."""
    odd = yaml.load(envoy_config.render(EnvoySettings(run_dir=Path("/") / run)), Loader=yaml.CSafeLoader)

    assert shape(odd) == shape(DEFAULT)


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize(
    ("environ", "text", "named"),
    [
        ({"MCP_AUTH_TYPE": "tls"}, "", "MCP_AUTH_TYPE ('tls')"),
        ({"MCP_AUTH_TYPE": "none"}, "", "MCP_ALLOW_NO_AUTH"),
        ({}, "server: {auth_type: jwt}", "server.auth_type belongs to section common"),
        ({"MCP_SERVER_RESOURCE": "http://tools.example"}, "", "MCP_SERVER_RESOURCE"),
        ({"MCP_SERVER_RESOURCE": "https://tools.example/%20"}, "", "MCP_SERVER_RESOURCE"),
        ({"MCP_SERVER_RESOURCE": 'https://tools.example/"'}, "", "MCP_SERVER_RESOURCE"),
        ({"MCP_SERVER_RESOURCE": "https://tools.example?x"}, "", "MCP_SERVER_RESOURCE"),
        ({"MCP_SERVER_AUTHORIZATION_SERVERS": "id.example"}, "", "'id.example'"),
        ({"MCP_SERVER_SCOPES_SUPPORTED": 'a"b'}, "", "is not a scope"),
        ({"MCP_FEDERATED_CA": "partner.example"}, "", "MCP_FEDERATED_CA"),
        ({"MCP_FEDERATED_CA": "partner.example=/p.pem"}, "", "not among MCP_TRUST_DOMAINS"),
        ({"MCP_FEDERATED_CA": "a.b=/p", "MCP_TRUST_DOMAINS": "mcp.internal,a.b,c.d"}, "", "c.d of MCP_TRUST_DOMAINS"),
        ({"MCP_FEDERATED_CA": "mcp.internal=/p"}, "", "MCP_CA_PATH"),
        ({"MCP_FEDERATED_CA": "a.b=/p,a.b=/q", "MCP_TRUST_DOMAINS": "mcp.internal,a.b"}, "", "each domain once"),
        ({"MCP_SERVER_PORT": "70000"}, "", "MCP_SERVER_PORT ('70000')"),
        ({"MCP_SERVER_HOST": "example.org"}, "", "MCP_SERVER_HOST"),
        ({"MCP_SERVER_PROT": "1"}, "", "MCP_SERVER_PROT"),
        ({"MCP_LIMITS_PER_CLIENT": "1"}, "", "MCP_LIMITS_PER_CLIENT"),
        ({"MCP_TRUST_DOMAINS": "Bad|Domain"}, "", "MCP_TRUST_DOMAINS"),
        ({"MCP_EGRESS_PEERS": "model-b"}, "", "MCP_EGRESS_PEERS"),
        ({"MCP_EGRESS_PEERS": "1=a b@h:1"}, "", "identity 'a b'"),
        ({}, "limits: {per_client: 1}", "limits.per_client"),
        ({}, "limits: {per_client_burst: 0}", "limits.per_client_burst"),
        ({}, "egress: {peer: []}", "egress.peer"),
        ({}, "server: {prot: 1}", "server.prot"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, environ: dict[str, str], text: str, named: str) -> None:
    """Issue: one clear line that names the thing and what to do."""
    config = tmp_path / "sidecar.yaml"
    config.write_text(text)
    with pytest.raises(UserError) as refusal:
        EnvoySettings.load(environ, config)

    assert named in str(refusal.value)


def test_the_names_of_the_seeds_work(tmp_path: Path) -> None:
    """Issue: MCP_SERVER_HOST, MCP_SERVER_PORT, MCP_AUTH_TYPE, MCP_CERT_PATH, MCP_KEY_PATH, MCP_CA_PATH."""
    config = tmp_path / "sidecar.yaml"
    config.write_text("server: {port: 1}\nlimits: {per_tool_burst: 7}\negress: {peers: ['1=b@b:1']}\n")
    environ = {
        "MCP_SERVER_HOST": "0.0.0.0",
        "MCP_SERVER_PORT": "50051",
        "MCP_AUTH_TYPE": "mtls",
        "MCP_CERT_PATH": "/a/tls.crt",
        "MCP_KEY_PATH": "/a/tls.key",
        "MCP_CA_PATH": "/b/ca.crt",
    }
    found = EnvoySettings.load(environ, config)

    assert (found.host, found.port, found.per_tool_burst, found.peers[0].host) == ("0.0.0.0", 50051, 7, "b")
    secrets = "".join(envoy_config.render_secrets(found).values())
    for path in ("/a/tls.crt", "/a/tls.key", "/b/ca.crt"):
        assert path in secrets


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    """Issue: a missing certificate: one line, before anything starts."""
    with pytest.raises(UserError, match="MCP_CERT_PATH"):
        envoy_config.envoy_command(EnvoySettings(cert_path=tmp_path / "no.crt"), tmp_path / "envoy.yaml")


def test_only_our_headers_may_come_from_authz() -> None:
    """Ours: the names in headers.py fit the rule in the template."""
    text = envoy_config.render(EnvoySettings())

    for name in (headers.SUBJECT, headers.USER, headers.ROLES, headers.TARGET, headers.DECISION, headers.SERVER):
        assert name.startswith("x-mcp-")
    assert "x-mcp-[a-z-]+" in text


async def test_egress_originates_mtls_to_the_peer_it_was_told(root: Path, pki: Pki) -> None:
    """Design: a loopback listener takes plaintext gRPC and originates mTLS; the peer sees this pod's identity."""
    (root / "there").mkdir(), (root / "here").mkdir()
    async with running_pod(root / "there", pki) as there:
        own = {f"{kind}_path": pki.root / "model-b" / name for kind, name in FILES}
        peers = [f"0=sidecar@127.0.0.1:{there.port}", f"0=somebody-else@127.0.0.1:{there.port}"]
        async with running_pod(root / "here", pki, peers=peers, **own) as here:
            codes = []
            for name in ("egress_0", "egress_1"):
                host, port = await asyncio.to_thread(envoy_config.listener_address, here.admin, name)
                async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
                    codes.append((await call(channel))[0])

    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE]
    assert [check.attributes.source.principal for check in there.authz.requests] == [f"spiffe://{DOMAIN}/model-b"]


FILES = (("cert", "tls.crt"), ("key", "tls.key"), ("ca", "ca.crt"))


def ingress(document: Any) -> Any:
    return document["static_resources"]["listeners"][0]


def clusters(document: Any) -> Any:
    return document["static_resources"]["clusters"]


def manager(document: Any) -> Any:
    return ingress(document)["filter_chains"][0]["filters"][1]["typed_config"]
