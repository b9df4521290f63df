"""Start a program that dies with the process that asked for it, within limits that the kernel keeps.

Run by `stdio` as a script of its own (`python -I -S launch.py PARENT_PID
LIMITS COMMAND…`), so that nothing has to run between fork and exec in the
bridge, which has threads. Linux tells by a signal when the parent is gone;
elsewhere the end of standard input has to do. LIMITS are names of `RLIMIT_…`
and values, `DATA=268435456,NOFILE=256`, or nothing.
"""

import os
import resource
import signal
import sys

CANNOT_START = 127
"""Exit status when the command cannot be executed, as shells have it."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, limits, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(CANNOT_START)  # the parent was gone before the signal was asked for
    try:
        for limit in filter(None, limits.split(",")):
            name, _, value = limit.partition("=")
            set_limit(getattr(resource, f"RLIMIT_{name}"), int(value))
    except (AttributeError, ValueError, OSError):
        sys.stderr.write(f"cannot set the limits {limits}\n")
        sys.exit(CANNOT_START)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell on purpose
    except OSError as error:
        sys.stderr.write(f"cannot execute {command[0]}: {error.strerror}\n")
        sys.exit(CANNOT_START)


def set_limit(kind: int, value: int) -> None:
    """Soft and hard, never above what we have ourselves."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main()
