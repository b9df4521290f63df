from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("method", "name", "protocol_version", "session_id", "id_json", "params_json")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ID_JSON_FIELD_NUMBER: _ClassVar[int]
    PARAMS_JSON_FIELD_NUMBER: _ClassVar[int]
    method: str
    name: str
    protocol_version: str
    session_id: str
    id_json: bytes
    params_json: bytes
    def __init__(self, method: _Optional[str] = ..., name: _Optional[str] = ..., protocol_version: _Optional[str] = ..., session_id: _Optional[str] = ..., id_json: _Optional[bytes] = ..., params_json: _Optional[bytes] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("message_json", "session_id")
    MESSAGE_JSON_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    message_json: bytes
    session_id: str
    def __init__(self, message_json: _Optional[bytes] = ..., session_id: _Optional[str] = ...) -> None: ...

class Notification(_message.Message):
    __slots__ = ("method", "protocol_version", "session_id", "params_json")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMS_JSON_FIELD_NUMBER: _ClassVar[int]
    method: str
    protocol_version: str
    session_id: str
    params_json: bytes
    def __init__(self, method: _Optional[str] = ..., protocol_version: _Optional[str] = ..., session_id: _Optional[str] = ..., params_json: _Optional[bytes] = ...) -> None: ...

class ListenRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class ReplyRequest(_message.Message):
    __slots__ = ("session_id", "message_json")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_JSON_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    message_json: bytes
    def __init__(self, session_id: _Optional[str] = ..., message_json: _Optional[bytes] = ...) -> None: ...

class EndSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class ClientFrame(_message.Message):
    __slots__ = ("request", "notification", "reply")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    NOTIFICATION_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    request: Request
    notification: Notification
    reply: ReplyRequest
    def __init__(self, request: _Optional[_Union[Request, _Mapping]] = ..., notification: _Optional[_Union[Notification, _Mapping]] = ..., reply: _Optional[_Union[ReplyRequest, _Mapping]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
