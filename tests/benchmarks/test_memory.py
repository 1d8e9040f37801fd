"""Memory is counted to the byte where torch gives it out, and seen from outside where a process rises."""

import os
import sys
from contextlib import suppress

import pytest
import torch

from benchmarks import memory
from benchmarks.memory import FreshProcessError, in_fresh_process, peak_allocated
from forked import start
from hurt import wait_until


def test_allocated_bytes_are_counted_to_the_byte_and_freed_ones_again():
    def work():
        first = torch.empty(1000)
        first = torch.empty(3000)  # beside the one that it replaces
        del first
        torch.empty(2000)

    assert peak_allocated(work) == 4 * 4000


@pytest.mark.skipif(sys.platform != "linux", reason="reads and resets the peak in /proc")
def test_the_rise_of_the_peak_is_what_was_allocated_meanwhile_and_nothing_earlier():
    megabyte = 2**20
    bytearray(400 * megabyte)  # touched and freed
    rise = memory.rise_of_peak(lambda: bytearray(100 * megabyte))
    # Pages of 4 KB, and whatever the interpreter allocates besides.
    assert 99 * megabyte < rise < 105 * megabyte


def test_what_goes_wrong_in_a_fresh_process_is_told():
    with pytest.raises(FreshProcessError, match=r"^ValueError: invalid literal"):
        in_fresh_process(int, "four")
    with pytest.raises(FreshProcessError, match="exit code 9"):
        in_fresh_process(sys.exit, 9)


def test_a_fresh_process_ends_with_the_one_that_was_killed_while_it_waited_for_it(tmp_path):
    noted = tmp_path / "process"
    asking = start(
        "from benchmarks.memory import in_fresh_process\n"
        "from forked import note_and_wait\n"
        f"in_fresh_process(note_and_wait, {str(noted)!r})"
    )
    wait_until(noted.exists)
    asking.kill()

    def is_gone():
        with suppress(ProcessLookupError):
            os.kill(int(noted.read_text()), 0)
            return False
        return True

    wait_until(is_gone)
