"""What a worker may not have: a network, which nothing that it does needs, and more memory than it was given."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# linux/sched.h
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


def leave_network() -> bool:
    """Move this process into a network namespace of its own, which holds no interface; return whether that worked.

    Call it before any thread starts. Needs Linux, and either its administrator's rights or user namespaces; where the
    kernel allows neither, the process keeps its network. Sockets that are open stay so.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        # In a user namespace root could no longer read the files of others.
        return False
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    for file, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{file}").write_text(line, "ascii")
    return True


def limit_memory(most_bytes: int) -> None:
    """Let this process have so much private memory and no more: an allocation beyond that fails in it, at once.

    Counted is writable memory of its own (RLIMIT_DATA, setrlimit(2)). The address space would be the wrong measure: torch
    and CUDA reserve far more of it than they use. Files that are mapped do not count.
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
