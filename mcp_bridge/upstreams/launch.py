"""Start a program that dies with the process that asked for it.

Run by `stdio` as a script of its own (`python -I -S launch.py PARENT_PID
COMMAND…`), so that nothing has to run between fork and exec in the bridge,
which has threads. Linux tells by a signal when the parent is gone; elsewhere
the end of standard input has to do.
"""

import os
import signal
import sys

CANNOT_START = 127
"""Exit status when the command cannot be executed, as shells have it."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(CANNOT_START)  # the parent was gone before the signal was asked for
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell on purpose
    except OSError as error:
        sys.stderr.write(f"cannot execute {command[0]}: {error.strerror}\n")
        sys.exit(CANNOT_START)


if __name__ == "__main__":
    main()
