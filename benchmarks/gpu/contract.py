"""Part `contract`: does every kernel launch on this device, and is it right?

The cases of `benchmarks.gpu.cases` are dealt to several processes, since most of their time goes into compiling
kernels. A case whose kernel faults costs its process the device: the case is named, and a new process goes on.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.gpu.cases import Case, faults, grid
from benchmarks.gpu.part import Task
from benchmarks.memory import describe_error

PROCESSES = 8


def measure(task: Task) -> None:
    """Fill in how many cases are right, which are wrong and how, and which there was no time for."""
    cases = grid(task.tiny)
    task.found |= {"device": describe_device(task.device)}
    task.found |= {"cases": len(cases), "right": 0, "wrong": {}, "not tried": [str(case) for case in cases]}
    waiting = iter(cases)
    lock = threading.Lock()

    def enter(case: Case, found: list[str]) -> None:
        with lock:
            task.found["not tried"].remove(str(case))
            if found:
                task.found["wrong"][str(case)] = found
            else:
                task.found["right"] += 1
            task.save()

    if task.tiny:  # in this process: a dry run is to be quick
        for case in waiting:
            enter(case, tried(case, task.device))
        return

    def next_case() -> Case | None:
        with lock:
            return next(waiting, None) if task.left() > 0 else None

    threads = [threading.Thread(target=supervise, args=(next_case, enter, task), daemon=True) for _ in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def describe_device(device: str) -> dict[str, Any]:
    """What the launcher's plans go by, and how much memory there is."""
    if device == "cpu":
        return {}
    properties = torch.cuda.get_device_properties()
    names = (
        "name",
        "major",
        "minor",
        "multi_processor_count",
        "L2_cache_size",
        "total_memory",
        "regs_per_multiprocessor",
    )
    return {name: getattr(properties, name, None) for name in names}


def tried(case: Case, device: str) -> list[str]:
    """What is wrong with the case, or what it raises. A CPU's own backend serves a dry run."""
    try:
        return faults(case, device, "triton" if device == "cuda" else None)
    except Exception as error:
        return [describe_error(error)]


def supervise(next_case: Any, enter: Any, task: Task) -> None:
    """Hand cases to a process, and to another one when that has lost its device, while there are any and time."""
    context = multiprocessing.get_context("spawn")
    process: Any = None
    try:
        for case in iter(next_case, None):
            if process is None:
                here, there = context.Pipe()
                process = context.Process(target=serve, args=(there, task.device), daemon=True)
                process.start()
                there.close()
            found, usable = ask(here, case, task)
            if found is not None:
                enter(case, found)
            if not usable:
                process.kill()
                process = None
    finally:
        if process is not None:
            process.kill()


def ask(connection: Connection, case: Case, task: Task) -> tuple[list[str] | None, bool]:
    """What is wrong with the case, None if there was no time to tell; and whether the process can go on."""
    try:
        connection.send(case)
        if not connection.poll(max(0.0, task.left())):
            return None, False
        answer: tuple[list[str], bool] = connection.recv()
        return answer
    except (EOFError, OSError):
        return ["its process ended without a word"], False


def serve(connection: Connection, device: str) -> None:
    """Answer cases until the connection is closed."""
    for case in received(connection):
        found = tried(case, device)
        connection.send((found, device_answers(device)))
        if device == "cuda":
            torch.cuda.empty_cache()  # what float64 took is the other processes' turn


def received(connection: Connection) -> Iterator[Case]:
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return


def device_answers(device: str) -> bool:
    """After a fault every call of the process raises."""
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return False
    return True
