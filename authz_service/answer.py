"""A decision as Envoy and the journal want it: CheckResponse bytes and a DecisionRecord. Pure."""

import math
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from authz_service.case import Case
from authz_service.identity import Identity
from authz_service.verdict import FAULT, HTTP_STATUS, Allow, Deny
from secure_mcp_grpc import headers
from secure_mcp_grpc.calls import target
from secure_mcp_grpc.http_calls import refusal_body
from secure_mcp_grpc.records import DecisionRecord, timestamp

__all__ = ["FAULT_ANSWER", "answer", "percent_encode", "record_of", "ticket_header"]

_LONGEST_REMEMBERED_NAME: Final = 256
_OVERWRITE: Final = HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD


def record_of(case: Case, verdict: Allow | Deny) -> DecisionRecord:
    """The record of a decision; the journal adds its chain, number and hashes."""
    identity, principal, call = case.identity, case.principal, case.call
    return DecisionRecord(
        chain="",
        seq=0,
        ts=timestamp(round(case.now_s * 1e6)),
        decision="allow" if isinstance(verdict, Allow) else "deny",
        reason=verdict.reason,
        rule=verdict.rule,
        policy_version=case.policy.version,
        identity=case.subject,
        spiffe_id=identity.spiffe_id if identity else "",
        user=principal.subject if principal else "",
        roles=case.roles,
        user_roles=case.user_roles,
        token_roles=principal.roles if principal else (),
        actors=principal.actors if principal else (),
        token_id=principal.token_id if principal else "",
        method=call.method if call else "",
        tool=call.name if call else "",
        args_digest=case.args_digest,
        request_id=case.request_id,
        session_id=call.session_id if call else "",
        peer_fingerprint=identity.fingerprint if identity else "",
    )


def answer(case: Case | None, verdict: Allow | Deny, chain: str, seq: int, reply_to: bytes | None = None) -> bytes:
    """The CheckResponse for `verdict` on `case`, recorded as number `seq` of `chain` (0: not recorded).

    `case` is None where nothing may be said of the request. `reply_to` is the
    id (JSON) of the JSON-RPC request that a refusal answers, None for one that
    came over gRPC. What repeats from
    call to call is remembered as bytes and what does not is appended: parsing
    two messages after one another merges them (protobuf encoding, "Last One
    Wins").
    """
    if case is None:
        head = _repeated(verdict, "", None, "", (), (), "", "", "", reply_to is not None)
        return head + _tail(chain, seq, "", allowed=False) + _body(verdict, reply_to)
    call = case.call
    method, name, session_id = (call.method, call.name, call.session_id) if call else ("", "", "")
    repeated = _repeated if len(name) <= _LONGEST_REMEMBERED_NAME else _repeated.__wrapped__
    principal = case.principal
    user = principal.subject if principal else ""
    head = repeated(
        verdict,
        case.subject,
        case.identity,
        user,
        case.roles,
        case.user_roles,
        case.policy.version,
        method,
        name,
        reply_to is not None,
    )
    tail = _tail(chain, seq, session_id, allowed=isinstance(verdict, Allow))
    return head + tail + _body(verdict, reply_to) if reply_to is not None else head + tail


def ticket_header(ticket: str) -> bytes:
    """What to append to the answer that allows a stream: x-mcp-ticket."""
    response = CheckResponse()
    _add_header(response.ok_response.headers, headers.TICKET, ticket)
    return bytes(response.SerializeToString())


@lru_cache(2048)
def _repeated(
    verdict: Allow | Deny,
    subject: str,
    identity: Identity | None,
    user: str,
    roles: tuple[str, ...],
    user_roles: tuple[str, ...],
    policy_version: str,
    method: str,
    name: str,
    plain: bool,
) -> bytes:
    response = CheckResponse()
    known = {
        "decision": "allow" if isinstance(verdict, Allow) else "deny",
        "reason": verdict.reason,
        "rule": verdict.rule,
        "subject": subject,
        "spiffe_id": identity.spiffe_id if identity else "",
        "user": user,
        "roles": ",".join(roles),
        "method": method,
        "tool": name,
        "policy_version": policy_version,
    }
    _add_metadata(response, known)
    if isinstance(verdict, Deny):
        _refuse(response, verdict, plain=plain)
    else:
        _permit(
            response,
            {
                headers.SUBJECT: headers.encode_value(subject),
                headers.USER: headers.encode_value(user),
                headers.ROLES: headers.encode_list(roles),
                headers.USER_ROLES: headers.encode_list(user_roles),
                headers.TARGET: target(method, name),
            },
        )
    return bytes(response.SerializeToString())


def _tail(chain: str, seq: int, session_id: str, *, allowed: bool) -> bytes:
    """What differs from call to call: the sequence number, filled into the octets around it."""
    digits = str(seq)
    pieces = _around_seq(chain, len(digits), session_id, allowed=allowed)
    return digits.encode().join(pieces)


@lru_cache(1024)
def _around_seq(chain: str, digits: int, session_id: str, *, allowed: bool) -> tuple[bytes, ...]:
    """The tail in pieces, between which a number of so many `digits` belongs: where two numbers make a difference."""
    one, other = (_write_tail(chain, digit * digits, session_id, allowed=allowed) for digit in "01")
    starts = [at for at in range(len(one)) if one[at] != other[at] and (at == 0 or one[at - 1] == other[at - 1])]
    bounds = [0, *(bound for start in starts for bound in (start, start + digits)), len(one)]
    return tuple(one[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True))


def _write_tail(chain: str, seq: str, session_id: str, *, allowed: bool) -> bytes:
    response = CheckResponse()
    _add_metadata(response, {"session_id": session_id, "chain": chain, "seq": seq})
    if allowed:
        _add_header(response.ok_response.headers, headers.DECISION, f"{chain}:{seq}")
    return bytes(response.SerializeToString(deterministic=True))


def _permit(response: CheckResponse, values: Mapping[str, str]) -> None:
    """Tokens end here: what stands behind the sidecar learns whom they spoke for, and cannot use them itself."""
    ok = response.ok_response
    for key, value in values.items():
        if value:
            _add_header(ok.headers, key, value)
        else:
            ok.headers_to_remove.append(key)
    ok.headers_to_remove.append("authorization")


def _refuse(response: CheckResponse, verdict: Deny, *, plain: bool) -> None:
    """`plain`: for a client over plain HTTP, which gets a body instead (`_body`)."""
    response.status.code = verdict.code
    response.status.message = verdict.reason
    denied = response.denied_response
    denied.status.code = HTTP_STATUS[verdict.code]
    wait_s = max(1, math.ceil(verdict.retry_after_s)) if verdict.retry_after_s else 0
    if wait_s:
        _add_header(denied.headers, "retry-after", str(wait_s))
    if plain:
        denied.status.code = 413 if verdict.reason == "too_large" else HTTP_STATUS[verdict.code]
        _add_header(denied.headers, "content-type", "application/json")
        return
    _add_header(denied.headers, "grpc-status", str(int(verdict.code)))
    _add_header(denied.headers, "grpc-message", percent_encode(verdict.sentence))
    if wait_s:
        _add_header(denied.headers, "grpc-status-details-bin", _details(verdict, wait_s))


def _body(verdict: Allow | Deny, reply_to: bytes | None) -> bytes:
    """What to append to a refusal that is answered over plain HTTP: the JSON-RPC error."""
    if reply_to is None or isinstance(verdict, Allow):
        return b""
    response = CheckResponse()
    text = refusal_body(reply_to, verdict.sentence, verdict.code.name, verdict.json_rpc_code)
    response.denied_response.body = text.decode()
    return bytes(response.SerializeToString())


def _details(verdict: Deny, wait_s: int) -> str:
    """A google.rpc.Status with RetryInfo, base64 without padding (gRPC over HTTP/2, "Binary-Header")."""
    status = Status(code=int(verdict.code), message=verdict.sentence)
    status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=wait_s)))
    return b64encode(status.SerializeToString()).rstrip(b"=").decode()


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


FAULT_ANSWER: Final = answer(None, FAULT, "", 0)
"""For the case that even recording or writing an answer failed."""
