"""The official conformance suite as a program: run it, read what it found."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.tools import node_packages

REVISIONS = ("2025-11-25", "2026-07-28")
HERE = Path(__file__).parent
CLIENT = HERE / "conformance_client.py"
SERVER = "server-"
"""What the suite puts before the name of a scenario for servers."""
_STAMP = re.compile(r"-\d{4}-\d\d-\d\dT[\d-]+Z$")
_RUN_S = 110

Checks = Counter[str]
"""`scenario check` → how often that check passed in one run."""


@contextlib.contextmanager
def everything_server() -> Iterator[str]:
    """The URL of the server that the suite is run against, in a process of its own."""
    command = (sys.executable, str(HERE / "everything_server.py"), "http")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def server_side(url: str, revision: str, directory: Path) -> Checks:
    """Every scenario for servers that `revision` names, against the server at `url`."""
    _run(("server", "--url", url, "--requirements", revision, "-o", str(directory)), directory, {})
    return passed(directory, SERVER)


def client_side(scenario: str, revision: str, directory: Path, env: Mapping[str, str]) -> Checks:
    """One scenario for clients, with `conformance_client.py` as the client."""
    command = shlex.join((sys.executable, str(CLIENT)))
    _run(
        (
            *("client", "--command", command, "--scenario", scenario),
            *("--spec-version", revision, "-o", str(directory)),
        ),
        directory,
        env,
    )
    return passed(directory, "")


def _run(arguments: Sequence[str], directory: Path, env: Mapping[str, str]) -> None:
    """The suite's exit status says whether all passed; what passed is in its files."""
    program = node_packages.modules() / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "output.txt").open("wb") as output:
        subprocess.run(
            (str(node_packages.NODE), str(program), *arguments),
            stdout=output,
            stderr=output,
            env={**os.environ, **env},
            timeout=_RUN_S,
            check=False,
        )


def passed(directory: Path, prefix: str, status: str = "SUCCESS") -> Checks:
    """What came out as `status`, from the `checks.json` of each scenario below `directory`."""
    return Counter(f"{scenario} {check['id']}" for scenario, check in _checks(directory, prefix, (status,)))


def why(directory: Path, prefix: str, missing: Checks) -> str:
    """What the suite says about checks that did not pass, for people."""
    said = {
        f"{scenario} {check['id']}: {check.get('errorMessage')}"
        for scenario, check in _checks(directory, prefix, ("FAILURE", "WARNING"))
        if f"{scenario} {check['id']}" in missing
    }
    return "\n".join(sorted(said) or sorted(missing))


def _checks(directory: Path, prefix: str, statuses: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(directory.rglob("checks.json")):
        scenario = _STAMP.sub("", str(path.parent.relative_to(directory))).removeprefix(prefix)
        for check in json.loads(path.read_text()):
            if check["status"] in statuses:
                yield scenario, check


def read_baseline(name: str) -> Checks:
    """The checks that pass directly, as committed: lines of `scenario check count`."""
    lines = (HERE / "baseline" / f"{name}.txt").read_text().splitlines()
    return Counter({line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in lines})


def write_baseline(name: str, checks: Checks) -> None:
    (HERE / "baseline").mkdir(exist_ok=True)
    lines = [f"{key} {count}\n" for key, count in sorted(checks.items())]
    (HERE / "baseline" / f"{name}.txt").write_text("".join(lines))
