"""Bytes that processes exchange: what each gives to torch.distributed, and what leaves it through TCP.

The first is exact and the same for every backend: it is what a model of the exchanges can be held to. The second is
what the operating system counted, and shows how often gloo's algorithm sends each byte.
"""

from __future__ import annotations

import math
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from benchmarks.allocation import profiled

# Bytes of the dtypes that are exchanged here, as torch's profiler names them.
ITEMSIZE = {"bool": 1, "float": 4, "double": 8, "long int": 8, "int": 4, "unsigned char": 1}

# Linux's struct tcp_info: 8 bytes, 24 numbers of 4 bytes, 2 of 8, then tcpi_bytes_acked, what the other side has.
BYTES_ACKED_OFFSET = 8 + 24 * 4 + 2 * 8
TCP_ESTABLISHED = 1


def payloads(function: Callable[[], object]) -> dict[str, list[int]]:
    """Run the function, and count what this process brings to gloo's collectives, DDP's and FSDP's included.

    Returns:
        by gloo's name for it, of each collective the bytes of this process's own tensor. A reduce-scatter is an
        "all_reduce" to gloo, which has no better one.
    """
    found: dict[str, list[int]] = {}
    for event in profiled(function, record_shapes=True):
        if event.name().startswith("gloo:") and event.shapes():
            shape, dtype = event.shapes()[0], event.dtypes()[0]
            found.setdefault(event.name().removeprefix("gloo:"), []).append(math.prod(shape) * ITEMSIZE[dtype])
    return found


def bytes_sent() -> int:
    """Bytes that this process's open TCP connections have delivered so far. Linux only.

    A connection has no other use here than gloo, if the processes find each other through a file.
    """
    total = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            is_socket = os.readlink(descriptor).startswith("socket:")
        except FileNotFoundError:  # the listing's own, closed by now
            continue
        if not is_socket:
            continue
        with socket.socket(fileno=os.dup(int(descriptor.name))) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED_OFFSET + 8)
                if info[0] == TCP_ESTABLISHED:
                    total += struct.unpack_from("Q", info, BYTES_ACKED_OFFSET)[0]
    return total
