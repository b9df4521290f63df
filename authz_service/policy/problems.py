"""What is wrong with a policy, where, and how badly."""

from dataclasses import dataclass

__all__ = ["PolicyError", "Problem"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. As text: `file:line: sentence`, without the line where it is not about one."""

    file: str
    line: int
    """From 1; 0 where the problem is not about one line."""
    sentence: str
    warning: bool = False
    """Worth a look, but no reason to refuse the file."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.sentence}" if self.line else f"{self.file}: {self.sentence}"


class PolicyError(ValueError):
    """A policy that cannot be used. Its text is the first problem in one line; `problems` has them all."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(problem if isinstance(problem, Problem) else _whole(problem) for problem in problems)
        first, more = str(problems[0]), len(problems) - 1
        super().__init__(f"{first} (and {more} more)" if more else first)


def _whole(sentence: str) -> Problem:
    file, separator, rest = sentence.partition(": ")
    return Problem(file, 0, rest) if separator else Problem("policy", 0, sentence)
