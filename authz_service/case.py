"""One request while it is judged: what the steps of the decision have found out so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from authz_service.identity import Identity
from authz_service.policy import Policy
from authz_service.verdict import Allow
from secure_mcp_grpc.authenticators import Principal
from secure_mcp_grpc.calls import McpCall

if TYPE_CHECKING:
    from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext

__all__ = ["Case"]


@dataclass(slots=True)
class Case:
    """Steps read it and add to it; what a step before a refusal did not reach is None or empty."""

    attributes: "AttributeContext | None"
    """What Envoy says of the request; None where that cannot be read, and for frames of a session, which are
    no requests of Envoy's."""
    now_s: float
    """Seconds since the epoch."""
    policy: Policy
    """In force when the request arrived, and for all of its steps."""
    request_id: str = ""
    identity: Identity | None = None
    """The workload, from the client certificate."""
    principal: Principal | None = None
    """The user or agent, from a token."""
    call: McpCall | None = None
    args_digest: str = ""
    """`sha256:` and 16 hex digits over the canonical JSON of the arguments; see `steps.message`."""
    roles: tuple[str, ...] = ()
    """The workload's."""
    user_roles: tuple[str, ...] = ()
    """The principal's, those of its token included."""
    permit: Allow | None = field(default=None)
    """Set by the policy step, and by it alone."""
    recheck: bool = False
    """Asked of a stream that is open: whether it may stay so. Nothing new is done, so nothing is counted."""

    @property
    def subject(self) -> str:
        """Who calls, as limits and records name it: the workload, or the principal where there is no certificate."""
        if self.identity is not None:
            return self.identity.subject
        return self.principal.subject if self.principal is not None else ""

    @property
    def headers(self) -> Mapping[str, str]:
        return self.attributes.request.http.headers if self.attributes is not None else {}
