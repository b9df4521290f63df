"""Several trust domains, each with CAs of its own: none can vouch for another's identities."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_harness import DOMAIN, Pki, Pod, call, eventually, handshake, plain_ca, running_pod

from secure_mcp_grpc import certs, envoy_config
from secure_mcp_grpc.envoy_config import EnvoySettings
from secure_mcp_grpc.errors import UserError

PARTNER, THIRD = "partner.example", "third.example"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass
class Federation:
    """CAs without name constraints for three domains, so that only Envoy keeps them apart, and where they stand."""

    pki: Pki
    root: Path
    own: Any
    cas: dict[str, Any]

    def bundle(self, domain: str) -> Path:
        return self.root / domain / "bundle.pem"

    def publish(self, domain: str, *cas: Any) -> None:
        """As a mounted ConfigMap: a directory swapped by one rename."""
        text = b"".join(certs.pem(certificate) for certificate, _ in cas)
        certs.replace_identity(self.root / domain, {"bundle.pem": text})

    def publish_own(self, *cas: Any) -> None:
        sidecar = self.pki.root / "sidecar"
        files = {name: (sidecar / name).read_bytes() for name in (certs.TLS_CRT, certs.TLS_KEY)}
        text = b"".join(certs.pem(certificate) for certificate, _ in (self.pki.signer(), *cas))
        certs.replace_identity(sidecar, {**files, certs.CA_CRT: text})

    def show(self, name: str, ca: Any, *uris: str, **options: Any) -> Path:
        return self.pki.write(name, ca, list(uris), **options)

    @property
    def options(self) -> dict[str, Any]:
        return {
            "trust_domains": [DOMAIN, PARTNER, THIRD],
            "federated": {domain: self.bundle(domain) for domain in self.cas},
        }


@pytest.fixture
def federation(root: Path, pki: Pki) -> Federation:
    own = plain_ca("own")
    federation = Federation(pki, root / "cas", own, {PARTNER: plain_ca("partner"), THIRD: plain_ca("third")})
    federation.root.mkdir()
    federation.publish_own(own)
    for domain, ca in federation.cas.items():
        federation.publish(domain, ca)
    return federation


@pytest.fixture
async def pod(root: Path, pki: Pki, federation: Federation) -> AsyncIterator[Pod]:
    async with running_pod(root, pki, **federation.options) as pod:
        yield pod


async def accepted(pod: Pod, identity: Path | None) -> bool:
    return await asyncio.to_thread(handshake, pod.port, pod.pki.ca, identity) == "accepted"


async def test_each_domain_is_let_in_by_its_own_ca(pod: Pod, federation: Federation) -> None:
    """Issue 3: clusters that federate. authz_service gets to know whose workload it is."""
    ids = [f"spiffe://{PARTNER}/model-x", f"spiffe://{THIRD}/ns/a/sa/b", f"spiffe://{DOMAIN}/model-a"]
    cas = [federation.cas[PARTNER], federation.cas[THIRD], federation.own]
    for number, (uri, ca) in enumerate(zip(ids, cas, strict=True)):
        async with pod.channel(federation.show(f"good{number}", ca, uri)) as channel:
            assert (await call(channel))[0] is grpc.StatusCode.OK

    assert [check.attributes.source.principal for check in pod.authz.requests] == ids
    assert all(check.attributes.source.certificate for check in pod.authz.requests)


async def test_no_ca_vouches_for_another_domain(pod: Pod, federation: Federation) -> None:
    """Issue 3, the attack on federation: a CA of partner.example signs model-a of ours, and every other way round."""
    cas = {DOMAIN: federation.own, **federation.cas}
    for signer, ca in cas.items():
        for domain in cas:
            identity = federation.show(f"{signer}-{domain}", ca, f"spiffe://{domain}/model-a")
            assert await accepted(pod, identity) is (signer == domain), f"{signer} signs for {domain}"
    assert not await accepted(pod, federation.show("nobody", plain_ca(), f"spiffe://{PARTNER}/model-a"))
    assert pod.authz.requests == []


async def test_an_intermediate_ca_vouches_where_its_root_does(pod: Pod, federation: Federation) -> None:
    """Ours: SPIRE signs with intermediates; the leaf's trust domain chooses the root, not the other way round."""
    intermediate = plain_ca("intermediate", federation.cas[PARTNER])
    for domain, expected in ((PARTNER, True), (DOMAIN, False), (THIRD, False)):
        identity = federation.show(f"via-{domain}", intermediate, f"spiffe://{domain}/x")
        chain = {name: (identity / name).read_bytes() for name in (certs.TLS_CRT, certs.TLS_KEY, certs.CA_CRT)}
        assert not await accepted(pod, identity)  # the chain is not whole
        chain[certs.TLS_CRT] += certs.pem(intermediate[0])
        certs.replace_identity(identity, chain)
        assert await accepted(pod, identity) is expected
    forged = federation.show("forged", federation.own, f"spiffe://{PARTNER}/x")
    files = {name: (forged / name).read_bytes() for name in (certs.TLS_CRT, certs.TLS_KEY, certs.CA_CRT)}
    files[certs.TLS_CRT] += certs.pem(federation.own[0]) + certs.pem(federation.cas[PARTNER][0])
    certs.replace_identity(forged, files)
    assert not await accepted(pod, forged)  # roots that a client sends along are not roots


@pytest.mark.parametrize(
    "uris",
    [
        ["spiffe://{own}/root", "spiffe://{partner}/x"],
        ["spiffe://{partner}/x", "spiffe://{own}/root"],
        ["https://{partner}/", "spiffe://{partner}/x"],
        ["spiffe://{partner}"],
        ["spiffe://{partner}/"],
        ["spiffe://{partner}/x,spiffe://{own}/root"],
        ["spiffe://{partner}@{own}/x"],
        ["spiffe://{partner}/x%2f..%2froot"],
        ["spiffe://PARTNER.example/x"],
        ["spiffe://unknown.example/x"],
        ["https://{partner}/x"],
        [],
    ],
)
async def test_what_a_partner_may_sign_must_still_be_one_spiffe_id(
    pod: Pod, federation: Federation, uris: Sequence[str]
) -> None:
    """Ours: the checks of one trust domain hold for several; two URIs are refused in either order."""
    odd = [uri.format(own=DOMAIN, partner=PARTNER) for uri in uris]
    assert not await accepted(pod, federation.show("odd", federation.cas[PARTNER], *odd))
    assert pod.authz.requests == []


async def test_a_partner_without_or_with_an_expired_certificate_is_refused(pod: Pod, federation: Federation) -> None:
    """Ours: the SPIFFE validator checks validity, too."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=30)
    hour = datetime.timedelta(minutes=20)
    times = {"not_before": past - hour, "not_after": past}
    expired = federation.show("expired", federation.cas[PARTNER], f"spiffe://{PARTNER}/x", **times)

    assert not await accepted(pod, expired)
    assert not await accepted(pod, None)
    early = {"not_before": past + 3 * hour, "not_after": past + 4 * hour}
    assert not await accepted(pod, federation.show("early", federation.cas[PARTNER], f"spiffe://{PARTNER}/x", **early))


async def test_a_partners_ca_rotates_without_a_restart(pod: Pod, federation: Federation) -> None:
    """Issue 3: bundle rotation; both CAs of an overlap count, and one taken back counts no more."""
    before, after = federation.cas[PARTNER], plain_ca("partner2")
    old = federation.show("old", before, f"spiffe://{PARTNER}/x")
    new = federation.show("new", after, f"spiffe://{PARTNER}/x")
    wrong = federation.show("wrong", after, f"spiffe://{DOMAIN}/model-a")

    for cas, expected in (([before], (True, False)), ([before, after], (True, True)), ([after], (False, True))):
        federation.publish(PARTNER, *cas)
        assert envoy_config.refresh_trust(pod.settings) is (cas != [before])

        async def in_force(expected: tuple[bool, bool] = expected) -> bool:
            return (await accepted(pod, old), await accepted(pod, new)) == expected

        await eventually(in_force)
        assert not await accepted(pod, wrong)
    assert not envoy_config.refresh_trust(pod.settings)
    assert await accepted(pod, federation.show("third", federation.cas[THIRD], f"spiffe://{THIRD}/x"))


async def test_our_own_ca_rotates_by_itself_and_only_for_us(pod: Pod, federation: Federation) -> None:
    """Ours: SDS watches `ca_path` as without federation; nobody has to call anything."""
    after = plain_ca("own2")
    new = federation.show("new", after, f"spiffe://{DOMAIN}/model-a")
    old = federation.show("old", federation.own, f"spiffe://{DOMAIN}/model-a")
    assert await accepted(pod, old)
    assert not await accepted(pod, new)
    federation.publish_own(after)

    async def in_force() -> bool:
        return not await accepted(pod, old) and await accepted(pod, new)

    await eventually(in_force)
    assert not await accepted(pod, federation.show("wrong", after, f"spiffe://{PARTNER}/x"))
    assert await accepted(pod, federation.show("partner", federation.cas[PARTNER], f"spiffe://{PARTNER}/x"))


async def test_our_own_certificate_is_renewed_without_a_restart(pod: Pod, federation: Federation) -> None:
    """Ours: renewal rebuilds the TLS context; the CAs of partners stay what they were."""
    pod.pki.issue("sidecar", dns=["localhost"], ips=["127.0.0.1"])
    federation.publish_own(federation.own)
    good = federation.show("good", federation.cas[PARTNER], f"spiffe://{PARTNER}/x")
    for _ in range(20):
        assert await accepted(pod, good)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n", "leaf"])
async def test_a_broken_bundle_changes_nothing(pod: Pod, federation: Federation, content: bytes | str | None) -> None:
    """Ours: refused by name; what was in force stays so, also when our own certificate is renewed meanwhile."""
    good = federation.show("good", federation.cas[PARTNER], f"spiffe://{PARTNER}/x")
    path = federation.bundle(PARTNER)
    if content is None:
        path.unlink()
    else:
        certs.replace_identity(
            path.parent, {path.name: (good / certs.TLS_CRT).read_bytes() if content == "leaf" else content}
        )
    with pytest.raises(UserError, match=r"CAs of partner\.example in MCP_FEDERATED_CA"):
        envoy_config.refresh_trust(pod.settings)
    pod.pki.issue("sidecar", dns=["localhost"], ips=["127.0.0.1"])
    await asyncio.sleep(0.3)

    assert await accepted(pod, good)


async def test_the_supervisor_keeps_bundles_in_force(
    pod: Pod, federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 3: rotation without restart; a broken bundle is said once, and a good one after it counts."""
    after = plain_ca("partner2")
    new = federation.show("new", after, f"spiffe://{PARTNER}/x")
    caplog.set_level("INFO")

    def said() -> list[str]:
        return [record.message for record in caplog.records if record.name == "secure_mcp_grpc.envoy_trust"]

    with envoy_config.keeping_trust(pod.settings, every_s=0.05):
        certs.replace_identity(federation.bundle(PARTNER).parent, {"bundle.pem": b"nonsense"})

        async def complained() -> bool:
            return bool(said())

        await eventually(complained)
        await asyncio.sleep(0.2)
        assert len(said()) == 1
        federation.publish(PARTNER, after)

        async def in_force() -> bool:
            return await accepted(pod, new)

        await eventually(in_force)
    assert len(said()) == 2


async def test_a_missing_bundle_stops_the_start(federation: Federation, root: Path) -> None:
    """Ours: one line that names the file."""
    sidecar = federation.pki.root / "sidecar"
    paths = {f"{kind}_path": sidecar / name for kind, name in (("cert", "tls.crt"), ("key", "tls.key"))}
    settings = EnvoySettings(run_dir=root, ca_path=sidecar / "ca.crt", **paths, **federation.options)
    federation.bundle(THIRD).unlink()

    with pytest.raises(UserError, match=str(federation.bundle(THIRD))):
        envoy_config.write_secrets(settings)


async def test_egress_believes_the_peers_own_domain_only(root: Path, federation: Federation) -> None:
    """Issue 3: to a federated peer only that domain's CAs count; to one of ours only ours; rotated by SDS itself."""
    pki, partner, after = federation.pki, federation.cas[PARTNER], plain_ca("partner2")
    theirs = f"spiffe://{PARTNER}/sidecar"
    good = federation.show("good", partner, theirs)
    forged = federation.show("forged", federation.own, theirs)
    impostor = federation.show("impostor", partner, f"spiffe://{DOMAIN}/sidecar")
    renewed = federation.show("renewed", after, theirs)

    async def code_of(here: Pod) -> grpc.StatusCode:
        host, port = await asyncio.to_thread(envoy_config.listener_address, here.admin, "egress_0")
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            return (await call(channel))[0]

    @contextlib.asynccontextmanager
    async def egress(name: str, shown: Path, identity: str) -> AsyncIterator[Pod]:
        (root / name).mkdir()
        (root / f"{name}-here").mkdir()
        own = {"cert_path": shown / certs.TLS_CRT, "key_path": shown / certs.TLS_KEY}
        async with running_pod(root / name, pki, trust_domains=[DOMAIN, PARTNER], **own) as there:
            peers = [f"0={identity}@127.0.0.1:{there.port}"]
            async with running_pod(root / f"{name}-here", pki, peers=peers, **federation.options) as here:
                yield here

    async with egress("good", good, theirs) as here:
        assert await code_of(here) is grpc.StatusCode.OK
    async with egress("ours", pki.root / "sidecar", "sidecar") as here:
        assert await code_of(here) is grpc.StatusCode.OK
    async with egress("forged", forged, theirs) as here:
        assert await code_of(here) is UNAVAILABLE
    async with egress("impostor", impostor, "sidecar") as here:
        assert await code_of(here) is UNAVAILABLE
    async with egress("renewed", renewed, theirs) as here:
        assert await code_of(here) is UNAVAILABLE
        federation.publish(PARTNER, after)

        async def reached() -> bool:
            return await code_of(here) is grpc.StatusCode.OK

        await eventually(reached)


def test_egress_to_a_domain_without_cas_is_refused(federation: Federation) -> None:
    """Ours: with federation nobody vouches for a domain that is not listed."""
    with pytest.raises(ValueError, match=r"other\.example.*no CAs here"):
        EnvoySettings(peers=["1=spiffe://other.example/x@h:1"], **federation.options)


async def test_without_federation_our_ca_vouches_for_all_domains(root: Path, pki: Pki, federation: Federation) -> None:
    """Ours: as before; what `trust_domains` lists, `ca_path` may sign."""
    async with running_pod(root, pki, trust_domains=[DOMAIN, PARTNER]) as pod:
        assert await accepted(pod, federation.show("ours", federation.own, f"spiffe://{PARTNER}/x"))
        assert not await accepted(pod, federation.show("theirs", federation.cas[PARTNER], f"spiffe://{PARTNER}/x"))
        assert not (root / "run" / "envoy-clients.yaml").exists()
