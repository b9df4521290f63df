"""What a ticket proves, and until when. Pure."""

import math
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from authz_service.case import Case
from authz_service.frames.tickets import Ticket, Tickets
from authz_service.identity import Identity
from authz_service.verdict import Deny
from mcp_bridge.judging import opening
from secure_mcp_grpc import headers
from secure_mcp_grpc.authenticators import Principal


def case(not_after_s: float = math.inf, expires_s: float = math.inf) -> Case:
    one = Case(None, 1000.0, SimpleNamespace(version="1"))  # type: ignore[arg-type]
    one.identity = Identity("model-a", "spiffe://mcp.internal/model-a", "mcp.internal", "f" * 64, not_after_s)
    one.principal = Principal("user:i:u", "i", expires_s=expires_s)
    return one


def reason(tickets: Tickets, text: str, now_s: float, rpc: str = "Session") -> str:
    found = tickets.open(text, rpc, now_s)
    return found.reason if isinstance(found, Deny) else "good"


def test_ticket_ends_with_what_it_was_given_for() -> None:
    """Issue 4: a certificate or a token that expires ends its streams, and so does the ticket's own age."""
    tickets = Tickets(100.0)
    sealed = {
        "certificate_expired": tickets.seal(case(not_after_s=1010.0), "Session"),
        "token_expired": tickets.seal(case(expires_s=1010.0), "Session"),
        "ticket_expired": Tickets(10.0, tickets._key).seal(case(), "Session"),
    }
    for expected, text in sealed.items():
        assert text is not None
        assert reason(tickets, text, 1009.0) == "good"
        assert reason(tickets, text, 1011.0) == expected


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_octet_of_a_ticket_can_be_changed(at: int, change: int) -> None:
    """Issue 4: forged tickets; each octet is under the seal, and the text has one form for an authentic content."""
    from base64 import urlsafe_b64decode, urlsafe_b64encode

    tickets = Tickets(100.0)
    text = tickets.seal(case(), "Session")
    assert text is not None
    octets = bytearray(urlsafe_b64decode(text))
    octets[at % len(octets)] ^= change

    assert reason(tickets, urlsafe_b64encode(octets).decode(), 1001.0) == "ticket_invalid"
    assert reason(tickets, text, 1001.0, rpc="Listen") == "ticket_invalid"
    assert reason(Tickets(100.0), text, 1001.0) == "ticket_invalid"
    assert isinstance(tickets.open(text, "Session", 1001.0), Ticket)


def test_ticket_goes_no_further_than_the_bridge() -> None:
    """Ours: what executes a frame is not given the ticket."""
    given_ = [(headers.SUBJECT, "model-a"), (headers.TICKET, "secret"), (headers.TARGET, "x")]

    assert opening(given_) == [(headers.SUBJECT, "model-a")]
