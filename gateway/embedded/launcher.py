"""Become another program that dies with its parent: `python -I -S launcher.py PARENT_PID COMMAND [ARGUMENT...]`.

The kernel sends SIGKILL when the parent ends, however it ends, so that nothing outlives a `catflap up` that was itself
killed. This runs before the program proper, as a file of its own and with nothing but the standard library, because
code between fork and exec (subprocess's `preexec_fn`) is not safe in a process with threads. Linux only.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2). It lasts through exec, not through fork: a program with children of its own must see to them."""


def die_with_parent(parent: int) -> None:
    """From now on this process gets SIGKILL when its parent, whose id is `parent`, ends. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def launch(arguments: list[str]) -> None:
    """Never returns: the process is another program afterwards, or ends with status 127 and one line."""
    parent, command = int(arguments[0]), arguments[1:]
    die_with_parent(parent)
    try:
        os.execvp(command[0], command)  # noqa: S606 - running what it is told is this module's whole purpose
    except OSError as problem:
        sys.stderr.write(f"{command[0]}: {problem.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    launch(sys.argv[1:])
