"""Cut a process off from the network, to show that a program does without."""

from __future__ import annotations

import os
import platform
import socket
import struct
import sys

_SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: ``AUDIT_ARCH_*`` of <linux/audit.h> and the number of socket(2)."""

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2  # <linux/prctl.h>, <linux/seccomp.h>
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO, _EACCES = 0x7FFF0000, 0x00050000, 13


def refuse_network() -> str:
    """Make socket(2) fail for all but local sockets, in this process and its children.

    A seccomp filter needs no rights and no namespace, which systems often restrict.

    Returns:
        Why that failed, or "" if it is done.
    """
    import ctypes

    machine = platform.machine()
    if sys.platform != "linux" or machine not in _SOCKET_CALLS:
        return f"{sys.platform} on {machine} cannot block its network access"
    architecture, number = _SOCKET_CALLS[machine]
    steps = [  # code, steps to skip if equal, if not, operand
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 0, 4, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 0, 2, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_EQUAL, 0, 1, socket.AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EACCES),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    done = libc.prctl(_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) == 0 and (
        libc.prctl(_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), program, zero, zero) == 0
    )
    if not done:
        error = os.strerror(ctypes.get_errno())
        return f"the kernel refused to block its network access ({error})"
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except PermissionError:
        return ""
    return "the kernel accepted the network filter but does not apply it"
