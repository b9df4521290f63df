"""Who has which roles, to any depth."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from authz_service.policy.file import Grouping

__all__ = ["Roles"]

_NOBODY: Final[tuple[str, ...]] = ()


class Roles:
    """The graph of the `g` lines. Casbin alone stops at ten levels and would overlook a deny above them."""

    def __init__(self, groupings: Iterable[Grouping]) -> None:
        direct: dict[str, list[str]] = {}
        for grouping in groupings:
            direct.setdefault(grouping.member, []).append(grouping.role)
        self._direct: Mapping[str, Sequence[str]] = direct

    def of(self, subject: str, also: Iterable[str] = ()) -> tuple[str, ...]:
        """Every role of `subject`, who besides has the roles in `also`: inherited ones included, sorted."""
        reached: set[str] = set()
        waiting = [*self._direct.get(subject, _NOBODY), *also]
        while waiting:
            role = waiting.pop()
            if role not in reached:
                reached.add(role)
                waiting += self._direct.get(role, _NOBODY)
        reached.discard(subject)
        return tuple(sorted(reached))

    def path(self, subject: str, role: str, also: Iterable[str] = ()) -> tuple[str, ...]:
        """A shortest way from `subject` to `role`, both included; empty where there is none."""
        came_from: dict[str, str] = {}
        waiting, seen = [subject], {subject}
        for member in waiting:
            if member == role:
                break
            for next_role in (*self._direct.get(member, _NOBODY), *(also if member == subject else ())):
                if next_role not in seen:
                    seen.add(next_role)
                    came_from[next_role] = member
                    waiting.append(next_role)
        else:
            return ()
        way = [role]
        while way[-1] != subject:
            way.append(came_from[way[-1]])
        return tuple(reversed(way))
