"""What steps know of the state that sidecars share: that it may be lost."""

from typing import Final

from authz_service.verdict import Code, Deny

__all__ = ["SHARED_STATE_LOST", "SharedStateLost"]


class SharedStateLost(Exception):
    """Redis does not answer, or not in a way that can be used."""


SHARED_STATE_LOST: Final = Deny(
    Code.UNAVAILABLE,
    "shared_state_unavailable",
    "revocations and quotas cannot be looked up at present, so the request was refused; try again",
)
