"""`secure-mcp-grpc policy` in a process of its own, and policies for it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from authz_service.policy import PolicyError
from authz_service.workbench.book import Book

ROOT = Path(__file__).parents[2]
MODEL = (ROOT / "authz_service" / "model.conf").read_bytes()
POLICY = """\
p, role:session, tools/list, *, allow
p, role:analyst, tools/call, query_db, allow, args.limit <= 100
p, role:analyst, tools/call, git_*, allow
p, role:analyst, tools/call, *_push, deny
p, role:user, tools/call, git_log, allow
g, role:analyst, role:session
g, model-a, role:analyst
"""


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`secure-mcp-grpc policy` with `arguments`, to its end, in this environment without settings of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MCP_", "CLICKHOUSE_"))}
    return subprocess.run(
        (sys.executable, "-m", "secure_mcp_grpc", "policy", *map(str, arguments)),
        env={**kept, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def book(text: str) -> Book:
    return Book(MODEL, text.encode(), model_name="model.conf", policy_name="policy.csv")


def accepted(lines: Sequence[str]) -> Book:
    """The policy of those of `lines` that are accepted together."""
    kept = list(lines)
    while True:
        try:
            return book("\n".join(kept))
        except PolicyError as error:
            for problem in error.problems:
                kept[problem.line - 1] = ""


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Refused with exit code 2 and one line that has `words` in it."""
    assert result.returncode == 2, (result.stdout, result.stderr)
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("secure-mcp-grpc: "), line
    for word in words:
        assert word in line, line
