from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FilterRequest(_message.Message):
    __slots__ = ("subject", "user", "user_roles", "method", "names", "explain")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    USER_ROLES_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    subject: str
    user: str
    user_roles: _containers.RepeatedScalarFieldContainer[str]
    method: str
    names: _containers.RepeatedScalarFieldContainer[str]
    explain: bool
    def __init__(self, subject: _Optional[str] = ..., user: _Optional[str] = ..., user_roles: _Optional[_Iterable[str]] = ..., method: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., explain: _Optional[bool] = ...) -> None: ...

class FilterResponse(_message.Message):
    __slots__ = ("visible", "explained", "hidden")
    VISIBLE_FIELD_NUMBER: _ClassVar[int]
    EXPLAINED_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    visible: _containers.RepeatedScalarFieldContainer[bool]
    explained: bool
    hidden: _containers.RepeatedCompositeFieldContainer[Hidden]
    def __init__(self, visible: _Optional[_Iterable[bool]] = ..., explained: _Optional[bool] = ..., hidden: _Optional[_Iterable[_Union[Hidden, _Mapping]]] = ...) -> None: ...

class Hidden(_message.Message):
    __slots__ = ("index", "reason", "sentence", "rule")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    index: int
    reason: str
    sentence: str
    rule: str
    def __init__(self, index: _Optional[int] = ..., reason: _Optional[str] = ..., sentence: _Optional[str] = ..., rule: _Optional[str] = ...) -> None: ...

class JudgeRequest(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("ticket", "rpc", "message", "request_id", "recheck")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    RPC_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RECHECK_FIELD_NUMBER: _ClassVar[int]
    ticket: str
    rpc: str
    message: bytes
    request_id: str
    recheck: bool
    def __init__(self, ticket: _Optional[str] = ..., rpc: _Optional[str] = ..., message: _Optional[bytes] = ..., request_id: _Optional[str] = ..., recheck: _Optional[bool] = ...) -> None: ...

class JudgeResponse(_message.Message):
    __slots__ = ("judgements",)
    JUDGEMENTS_FIELD_NUMBER: _ClassVar[int]
    judgements: _containers.RepeatedCompositeFieldContainer[Judgement]
    def __init__(self, judgements: _Optional[_Iterable[_Union[Judgement, _Mapping]]] = ...) -> None: ...

class Judgement(_message.Message):
    __slots__ = ("allowed", "code", "reason", "sentence", "retry_after_s", "ends", "decision", "target", "user_roles")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    USER_ROLES_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    code: int
    reason: str
    sentence: str
    retry_after_s: int
    ends: bool
    decision: str
    target: str
    user_roles: str
    def __init__(self, allowed: _Optional[bool] = ..., code: _Optional[int] = ..., reason: _Optional[str] = ..., sentence: _Optional[str] = ..., retry_after_s: _Optional[int] = ..., ends: _Optional[bool] = ..., decision: _Optional[str] = ..., target: _Optional[str] = ..., user_roles: _Optional[str] = ...) -> None: ...
