"""Which Chromium the tests drive: the system's, or Playwright's own; run as a module, says whether there is one."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

__all__ = ["launch"]

# No sandbox: tests run as root, on pages of our own. The rest keeps it from calling home.
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def launch(playwright: Playwright) -> Browser:
    """Headless Chromium; close it."""
    return playwright.chromium.launch(executable_path=_system(), args=_ARGUMENTS)


def _system() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


if __name__ == "__main__":
    with sync_playwright() as found:
        sys.exit(0 if _system() or Path(found.chromium.executable_path).exists() else 1)
