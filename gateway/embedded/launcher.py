"""Become another program that dies with its parent: `python -I -S launcher.py PARENT_PID COMMAND [ARGUMENT...]`.

Two lines of defence, so that nothing outlives a `catflap up` that was itself killed. The kernel sends the program
SIGKILL when the parent ends, however it ends; that says nothing to the program's own children (a tritonserver's stubs,
which mostly but not always end by themselves). So a guard stays behind in the program's process group, and kills the
whole group as soon as either of the two has ended.

This runs before the program proper, as a file of its own and with nothing but the standard library, because code
between fork and exec (subprocess's `preexec_fn`) is not safe in a process with threads. Linux only.
"""

import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2). It lasts through exec, not through fork."""


def launch(arguments: list[str]) -> None:
    """Never returns: the process is another program afterwards, or ends with status 127 and one line."""
    parent, command = int(arguments[0]), arguments[1:]
    die_with_parent(parent)
    leave_guard(parent)
    try:
        os.execvp(command[0], command)  # noqa: S606 - running what it is told is this module's whole purpose
    except OSError as problem:
        sys.stderr.write(f"{command[0]}: {problem.strerror}\n")
        sys.exit(127)


def die_with_parent(parent: int) -> None:
    """From now on this process gets SIGKILL when its parent, whose id is `parent`, ends. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def leave_guard(parent: int) -> None:
    """Make this process a group's leader, and leave a process in the group that kills it when `parent` or this ends.

    Forked twice, so that the guard is nobody's child here: the program may count its children, or wait for any.
    """
    if os.getpgid(0) != os.getpid():
        os.setsid()
    watched = [os.pidfd_open(pid) for pid in (parent, os.getpid())]
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            _guard(watched)
        os._exit(0)
    os.waitpid(middle, 0)
    for handle in watched:
        os.close(handle)


def _guard(watched: list[int]) -> None:
    # The group cannot be another's by then: while the guard is in it, the kernel gives its number to nobody.
    poll = select.poll()
    for handle in watched:
        poll.register(handle, select.POLLIN)
    poll.poll()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    launch(sys.argv[1:])
