"""A decision as Envoy and the journal want it: CheckResponse bytes and a DecisionRecord. Pure."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from authz_service.decide import Decision
from authz_service.identity import Identity
from authz_service.verdict import FAULT, HTTP_STATUS, Allow, Deny
from secure_mcp_grpc import headers
from secure_mcp_grpc.calls import target
from secure_mcp_grpc.records import DecisionRecord, timestamp

__all__ = ["FAULT_ANSWER", "answer", "percent_encode", "record_of"]

_LONGEST_REMEMBERED_NAME: Final = 256
_OVERWRITE: Final = HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD


def record_of(decision: Decision, now_s: float) -> DecisionRecord:
    """The record of `decision`; the journal adds its chain, number and hashes."""
    verdict, identity, call = decision.verdict, decision.identity, decision.call
    return DecisionRecord(
        chain="",
        seq=0,
        ts=timestamp(round(now_s * 1e6)),
        decision="allow" if isinstance(verdict, Allow) else "deny",
        reason=verdict.reason,
        rule=verdict.rule,
        policy_version=decision.policy_version,
        identity=identity.subject if identity else "",
        spiffe_id=identity.spiffe_id if identity else "",
        roles=decision.roles,
        method=call.method if call else "",
        tool=call.name if call else "",
        args_digest=decision.args_digest,
        request_id=decision.request_id,
        session_id=call.session_id if call else "",
        peer_fingerprint=identity.fingerprint if identity else "",
    )


def answer(decision: Decision, chain: str, seq: int) -> bytes:
    """The CheckResponse for `decision`, recorded as number `seq` of `chain` (0: not recorded).

    What repeats from call to call is remembered as bytes and what does not is appended: parsing two messages
    after one another merges them (protobuf encoding, "Last One Wins").
    """
    call = decision.call
    method, name, session_id = (call.method, call.name, call.session_id) if call else ("", "", "")
    repeated = _repeated if len(name) <= _LONGEST_REMEMBERED_NAME else _repeated.__wrapped__
    head = repeated(decision.verdict, decision.identity, decision.roles, decision.policy_version, method, name)
    return head + _tail(chain, seq, session_id, allowed=isinstance(decision.verdict, Allow))


@lru_cache(2048)
def _repeated(
    verdict: Allow | Deny,
    identity: Identity | None,
    roles: tuple[str, ...],
    policy_version: str,
    method: str,
    name: str,
) -> bytes:
    response = CheckResponse()
    subject = identity.subject if identity else ""
    known = {
        "decision": "allow" if isinstance(verdict, Allow) else "deny",
        "reason": verdict.reason,
        "rule": verdict.rule,
        "subject": subject,
        "spiffe_id": identity.spiffe_id if identity else "",
        "user": "",
        "roles": ",".join(roles),
        "method": method,
        "tool": name,
        "policy_version": policy_version,
    }
    _add_metadata(response, known)
    if isinstance(verdict, Deny):
        _refuse(response, verdict)
    else:
        _permit(response, subject, ",".join(roles), target(method, name))
    return bytes(response.SerializeToString())


def _tail(chain: str, seq: int, session_id: str, *, allowed: bool) -> bytes:
    response = CheckResponse()
    _add_metadata(response, {"session_id": session_id, "chain": chain, "seq": str(seq)})
    if allowed:
        _add_header(response.ok_response.headers, headers.DECISION, f"{chain}:{seq}")
    return bytes(response.SerializeToString())


def _permit(response: CheckResponse, subject: str, roles: str, authorized: str) -> None:
    ok = response.ok_response
    for key, value in ((headers.SUBJECT, subject), (headers.ROLES, roles), (headers.TARGET, authorized)):
        if value:
            _add_header(ok.headers, key, value)
        else:
            ok.headers_to_remove.append(key)
    ok.headers_to_remove.append(headers.USER)


def _refuse(response: CheckResponse, verdict: Deny) -> None:
    response.status.code = verdict.code
    response.status.message = verdict.reason
    denied = response.denied_response
    denied.status.code = HTTP_STATUS[verdict.code]
    _add_header(denied.headers, "grpc-status", str(int(verdict.code)))
    _add_header(denied.headers, "grpc-message", percent_encode(verdict.sentence))


def percent_encode(sentence: str) -> str:
    """`sentence` as a grpc-message header (gRPC over HTTP/2, "Percent-Encoded")."""
    return "".join(chr(b) if 0x20 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in sentence.encode())


def _add_metadata(response: CheckResponse, values: Mapping[str, str]) -> None:
    fields = response.dynamic_metadata.fields
    for key, value in values.items():
        fields[key].string_value = value


def _add_header(target_list: Any, key: str, value: str) -> None:
    option = target_list.add()
    option.header.key = key
    option.header.value = value
    option.append_action = _OVERWRITE


FAULT_ANSWER: Final = answer(Decision(FAULT), "", 0)
"""For the case that even recording or writing an answer failed."""
