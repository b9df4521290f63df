"""Step: who calls. The workload from its certificate, the user or agent from a token, as `auth_type` demands."""

from collections.abc import Awaitable, Sequence
from typing import Final

from authz_service.case import Case
from authz_service.identity import Identity, IdentityReader
from authz_service.verdict import FAULT, Code, Deny
from secure_mcp_grpc.authenticators import Authenticator, Outcome, Presented, Principal, Refusal
from secure_mcp_grpc.settings import AuthType

__all__ = ["ANONYMOUS", "IdentityStep"]

ANONYMOUS: Final = Identity("anonymous", "", "", "", float("inf"))
"""Everybody, under `none`: for development only."""

_NO_TOKEN: Final = Deny(Code.UNAUTHENTICATED, "no_token", "a bearer token is required in the authorization header")
_NOT_ACCEPTED: Final = Deny(
    Code.UNAUTHENTICATED, "token_not_accepted", "credentials of this kind are not accepted here"
)
_WITH_CERTIFICATE: Final = ("mtls", "mtls+jwt")


class IdentityStep:
    """Finds `identity` and `principal`. A token that is shown must count, also where none is demanded."""

    def __init__(
        self, auth_type: AuthType, certificates: IdentityReader, authenticators: Sequence[Authenticator]
    ) -> None:
        self._certificates = certificates if auth_type in _WITH_CERTIFICATE else None
        self._token_required = auth_type not in ("mtls", "none")
        self._anonymous = auth_type == "none"
        self._authenticate = tuple(authenticator.authenticate for authenticator in authenticators)

    def judge(self, case: Case) -> Deny | Awaitable[Deny | None] | None:
        if case.attributes is None:
            return FAULT
        if self._anonymous:
            case.identity = ANONYMOUS
        if self._certificates is not None:
            source = case.attributes.source
            identity = self._certificates.read(source.certificate, source.principal, case.now_s)
            if isinstance(identity, Deny):
                return identity
            case.identity = identity
        authorization = case.headers.get("authorization", "")
        if not authorization:
            return _NO_TOKEN if self._token_required else None
        fingerprint = case.identity.fingerprint if case.identity is not None else ""
        return self._ask(case, Presented(authorization, case.headers, fingerprint, case.now_s), 0)

    def _ask(self, case: Case, presented: Presented, first: int) -> Deny | Awaitable[Deny | None] | None:
        for number in range(first, len(self._authenticate)):
            outcome = self._authenticate[number](presented)
            if outcome is None:
                continue
            if isinstance(outcome, Principal | Refusal):
                return _settle(case, outcome)
            return self._wait(case, presented, outcome, number + 1)
        return _NOT_ACCEPTED

    async def _wait(self, case: Case, presented: Presented, waiting: Awaitable[Outcome], following: int) -> Deny | None:
        outcome = await waiting
        if outcome is not None:
            return _settle(case, outcome)
        settled = self._ask(case, presented, following)
        return settled if settled is None or isinstance(settled, Deny) else await settled


def _settle(case: Case, outcome: Principal | Refusal) -> Deny | None:
    if isinstance(outcome, Refusal):
        code = Code.UNAVAILABLE if outcome.reason == "token_unverifiable" else Code.UNAUTHENTICATED
        return Deny(code, outcome.reason, outcome.sentence)
    if (
        not outcome.subject.startswith("user:")
        or outcome.expires_s < case.now_s
        or not all(role.startswith("role:") for role in outcome.roles)
    ):
        return FAULT  # an authenticator that breaks its promise gives nobody an identity
    case.principal = outcome
    return None
