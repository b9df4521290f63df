"""What one identity may take of what all share."""

import pytest

from mcp_bridge.errors import HopError
from mcp_bridge.sessions import Sessions


def test_owner_of_most_sessions_makes_room_for_others() -> None:
    """Ours: nobody shuts the others out by opening sessions; whoever is alone may have them all."""
    sessions = Sessions(4, 1000)
    greedy = [sessions.open("a") for _ in range(4)]
    with pytest.raises(HopError):
        sessions.open("a")
    greedy[0].in_use = 1
    mine = [sessions.open("b"), sessions.open("b")]
    with pytest.raises(HopError):
        sessions.open("b")

    assert sessions.crowded_out == greedy[1:3]
    assert {one.id for one in sessions.all()} == {one.id for one in (greedy[0], greedy[3], *mine)}
