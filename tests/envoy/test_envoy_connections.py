"""Who gets a connection to the ingress listener, and how that is recorded."""

import asyncio
import datetime
import socket
import struct
import subprocess
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from envoy_harness import DOMAIN, Pki, Pod, call, eventually, handshake, plain_ca, running_pod

from secure_mcp_grpc import certs, envoy_config

NOW = datetime.datetime.now(datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def trust(pki: Pki, *cas: x509.Certificate) -> None:
    """Make the sidecar trust `cas` beside its own CA."""
    sidecar = pki.root / "sidecar"
    files = {name: (sidecar / name).read_bytes() for name in (certs.TLS_CRT, certs.TLS_KEY, certs.CA_CRT)}
    files[certs.CA_CRT] += b"".join(certs.pem(ca) for ca in cas)
    certs.replace_identity(sidecar, files)


async def refused(pod: Pod, identity: Path | None, **_: object) -> str:
    """The failure that the sink gets to know."""
    answer = await asyncio.to_thread(handshake, pod.port, pod.pki.ca, identity)
    assert answer != "accepted"
    entry = await asyncio.wait_for(pod.sink.tcp.get(), 5)
    common = entry.common_properties
    return str(common.downstream_transport_failure_reason or common.connection_termination_details)


async def test_no_certificate_is_refused(pod: Pod) -> None:
    """Issue: handshake refused and recorded."""
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in await refused(pod, None)


async def test_another_ca_is_refused(pod: Pod) -> None:
    """Issue: wrong CA, even one of the same name that issues the same identity."""
    stranger = pod.pki.write("stranger", certs.make_ca(DOMAIN), [f"spiffe://{DOMAIN}/model-a"])

    assert "CERTIFICATE_VERIFY_FAILED" in await refused(pod, stranger)


async def test_an_expired_certificate_is_refused(pod: Pod) -> None:
    """Issue: expired."""
    times = {"not_before": NOW - 2 * HOUR, "not_after": NOW - HOUR}
    expired = pod.pki.write("expired", pod.pki.signer(), [f"spiffe://{DOMAIN}/model-a"], **times)

    assert "CERTIFICATE_VERIFY_FAILED" in await refused(pod, expired)


async def test_a_ca_cannot_sign_for_another_trust_domain(pod: Pod) -> None:
    """Ours: name constraints tie a CA to its trust domain, also where a bundle holds several CAs."""
    elsewhere = pod.pki.write("elsewhere", pod.pki.signer(), ["spiffe://evil.mcp/model-a"])

    assert "CERTIFICATE_VERIFY_FAILED" in await refused(pod, elsewhere)


@pytest.mark.parametrize(
    "uris",
    [
        ["spiffe://evil.mcp/model-a"],
        ["spiffe://test.mcp.evil.mcp/model-a"],
        ["spiffe://testxmcp/model-a"],
        ["https://test.mcp/model-a"],
        ["x-spiffe://test.mcp/model-a"],
        ["spiffe://test.mcp"],
        ["spiffe://test.mcp/"],
        ["spiffe://test.mcp/model-a/"],
        ["spiffe://test.mcp/model-a,spiffe://test.mcp/root"],
        ["spiffe://test.mcp/model-a%2froot"],
        [],
    ],
)
async def test_a_trusted_ca_does_not_make_any_name_welcome(root: Path, pki: Pki, uris: list[str]) -> None:
    """Ours: the SAN matcher is anchored and knows the form of a SPIFFE ID."""
    ca = plain_ca()
    trust(pki, ca[0])
    async with running_pod(root, pki) as pod:
        good = pki.write("good", ca, ["spiffe://test.mcp/model-a"])
        assert await asyncio.to_thread(handshake, pod.port, pki.ca, good) == "accepted"

        assert "CERTIFICATE_VERIFY_FAILED" in await refused(pod, pki.write("odd", ca, uris))


@pytest.mark.parametrize("second", ["spiffe://test.mcp/root", "spiffe://evil.mcp/x", "https://example.org/"])
@pytest.mark.parametrize("first", [True, False])
async def test_a_certificate_with_two_uris_is_refused(root: Path, pki: Pki, second: str, first: bool) -> None:
    """X509-SVID, 2: exactly one URI SAN; SAN matchers pass if any matches."""
    ca = plain_ca()
    trust(pki, ca[0])
    uris = [f"spiffe://{DOMAIN}/model-a", second]
    async with running_pod(root, pki) as pod:
        failure = await refused(pod, pki.write("two", ca, uris if first else uris[::-1]))

    assert failure == "rbac_access_denied_matched_policy[not_one_spiffe_id]"
    assert pod.authz.requests == []


async def test_an_entry_of_a_failed_handshake_names_the_claim_only(pod: Pod) -> None:
    """Design, facts: the SAN in such an entry is a claim."""
    stranger = pod.pki.write("stranger", certs.make_ca(DOMAIN), [f"spiffe://{DOMAIN}/model-a"])
    await asyncio.to_thread(handshake, pod.port, pod.pki.ca, stranger)

    entry = await asyncio.wait_for(pod.sink.tcp.get(), 5)
    claims = entry.common_properties.tls_properties.peer_certificate_properties.subject_alt_name
    assert [claim.uri for claim in claims] in ([], [f"spiffe://{DOMAIN}/model-a"])
    assert entry.common_properties.downstream_remote_address.socket_address.address == "127.0.0.1"


async def test_a_connection_that_works_leaves_no_entry(pod: Pod) -> None:
    """Ours: the listener's log is for failures; requests have their own."""
    async with pod.channel() as channel:
        assert (await call(channel))[0] is grpc.StatusCode.OK
    assert await asyncio.to_thread(handshake, pod.port, pod.pki.ca, pod.pki.root / "model-a") == "accepted"

    await refused(pod, None)
    assert pod.sink.tcp.empty()


async def test_a_handshake_that_never_ends_is_cut_off_and_recorded(pod: Pod) -> None:
    """Ours: 5 s, so that silent connections do not pile up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port)
    assert await asyncio.wait_for(reader.read(1), 10) == b""
    writer.close()

    entry = await asyncio.wait_for(pod.sink.tcp.get(), 5)
    assert entry.common_properties.connection_termination_details == "transport socket timeout was reached"


async def test_a_reset_connection_leaves_no_entry(pod: Pod) -> None:
    """Ours: a peer that goes away in a hurry was not refused."""
    with socket.create_connection(("127.0.0.1", pod.port), 5) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in await refused(pod, None)
    assert pod.sink.tcp.empty()


async def test_plaintext_is_refused_and_recorded(pod: Pod) -> None:
    """Ours: nothing speaks to the listener without TLS."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{pod.port}") as channel:
        assert (await call(channel))[0] is grpc.StatusCode.UNAVAILABLE

    entry = await asyncio.wait_for(pod.sink.tcp.get(), 5)
    assert entry.common_properties.downstream_transport_failure_reason


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_old_tls_is_refused(pod: Pod, version: str) -> None:
    """Design: TLS 1.2 or newer."""
    command = ("openssl", "s_client", "-connect", f"127.0.0.1:{pod.port}", version, "-cipher", "ALL:@SECLEVEL=0")
    done = await asyncio.to_thread(subprocess.run, command, input=b"", capture_output=True, timeout=10, check=False)

    assert done.returncode != 0


async def test_a_renewed_certificate_is_served_without_a_restart(pod: Pod) -> None:
    """Issue: written by rename so that Envoy's SDS rotates them live; nobody is refused meanwhile."""
    before = await served(pod)
    async with pod.channel() as channel:
        assert (await call(channel))[0] is grpc.StatusCode.OK
        for _ in range(3):
            pod.pki.issue("sidecar", dns=["localhost"], ips=["127.0.0.1"])
            expected = certs.facts(pod.pki.root / "sidecar").serial

            async def renewed(expected: str = expected) -> bool:
                return await served(pod) == expected

            await eventually(renewed)
            async with pod.channel() as other:
                assert (await call(other))[0] is grpc.StatusCode.OK
        assert (await call(channel))[0] is grpc.StatusCode.OK
    assert await served(pod) != before


async def test_a_new_ca_is_trusted_and_an_old_one_forgotten_without_a_restart(pod: Pod) -> None:
    """Ours: the trust bundle rotates as the certificate does."""
    ca = certs.make_ca(DOMAIN)
    guest = pod.pki.write("guest", ca, [f"spiffe://{DOMAIN}/guest"])
    await refused(pod, guest)
    trust(pod.pki, ca[0])

    async def welcome() -> bool:
        return await asyncio.to_thread(handshake, pod.port, pod.pki.ca, guest) == "accepted"

    await eventually(welcome)
    pod.pki.issue("sidecar", dns=["localhost"], ips=["127.0.0.1"])

    async def unwelcome() -> bool:
        return not await welcome()

    await eventually(unwelcome)


async def test_plain_files_replaced_one_by_one_rotate_too(root: Path, pki: Pki) -> None:
    """Ours: an operator's own directory without `..data`; a pair that does not match never takes effect."""
    plain = root / "plain"
    plain.mkdir(mode=0o700)
    names = (certs.TLS_CRT, certs.TLS_KEY, certs.CA_CRT)

    def put() -> None:
        for name in names:
            temporary = plain / f"{name}.new"
            temporary.write_bytes((pki.root / "sidecar" / name).read_bytes())
            temporary.replace(plain / name)

    put()
    paths = {f"{kind}_path": plain / name for kind, name in zip(("cert", "key", "ca"), names, strict=True)}
    async with running_pod(root, pki, **paths) as pod:
        pki.issue("sidecar", dns=["localhost"], ips=["127.0.0.1"])
        put()

        async def renewed() -> bool:
            return await served(pod) == certs.facts(plain).serial

        await eventually(renewed)


async def test_draining_lets_a_running_call_end_and_takes_no_new_connection(pod: Pod) -> None:
    """Issue: stop listening, then drain."""
    async with pod.channel() as channel:
        session = channel.stream_stream("/secure_mcp_grpc.v1.McpTransport/Session")(timeout=10)
        await session.write(b"one")
        assert await session.read() == b"one"
        assert await asyncio.to_thread(envoy_config.drain, pod.admin, timeout_s=0.1) is False
        await session.write(b"two")
        assert await session.read() == b"two"
        await session.done_writing()
        assert await session.code() is grpc.StatusCode.OK
    assert await asyncio.to_thread(envoy_config.drain, pod.admin, timeout_s=2) is True
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(handshake, pod.port, pod.pki.ca, pod.pki.root / "model-a")
    assert pod.process is not None
    pod.process.terminate()
    assert await asyncio.to_thread(pod.process.wait, 3) == 0


async def served(pod: Pod) -> str:
    """Serial number of the certificate that Envoy serves now."""
    identity = pod.pki.root / "model-a"
    command = ("openssl", "s_client", "-connect", f"127.0.0.1:{pod.port}", "-cert", str(identity / certs.TLS_CRT))
    done = await asyncio.to_thread(
        subprocess.run,
        (*command, "-key", str(identity / certs.TLS_KEY)),
        input=b"",
        capture_output=True,
        timeout=10,
        check=False,
    )
    start = done.stdout.index(b"-----BEGIN CERTIFICATE")
    digits = f"{x509.load_pem_x509_certificate(done.stdout[start:]).serial_number:x}"
    return digits.zfill(len(digits) + len(digits) % 2)
