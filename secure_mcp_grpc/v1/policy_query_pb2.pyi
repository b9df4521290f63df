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
