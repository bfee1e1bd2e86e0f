"""What a process tells the kernel about itself: prctl(2)."""

import ctypes

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of every orphan beneath us, as PID 1 of a container is anyway."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # where that can't be, nothing but this is lost


def end_with_parent(signum: int) -> None:
    """Have this process signalled when PID 1 is killed; to be said again after a change of user, which forgets it."""
    _set(PR_SET_PDEATHSIG, signum)


def hide_memory() -> None:
    """Keep this process's memory and environment from others of the same user, and out of core dumps.

    It holds for what is forked from here, and ends with exec. CAP_SYS_PTRACE opens it all the same, and CAP_PERFMON or
    CAP_SYS_ADMIN the environment: a container's root has none of them.
    """
    _set(PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """Have no program that this process or its children start gain rights by a setuid bit or by file capabilities."""
    _set(PR_SET_NO_NEW_PRIVS, 1)


def _set(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
