"""Large blocks are mappings of their own while a model loads, although blocks of their size were freed before."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes
from drafthouse.engine.heap import give_back_freed, large_blocks_mapped

class MallInfo(ctypes.Structure):
    # glibc's account of its heaps; hblks counts blocks that are mappings of their own
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", *"abcdef")]

account = ctypes.CDLL(None).mallinfo2
account.restype = MallInfo

def mapped_by_a_block():
    before = account().hblks
    block = bytearray(4 << 20)
    return account().hblks - before if block else None

bytearray(24 << 20)  # freed at once: from now on glibc keeps blocks up to this size
give_back_freed()
with large_blocks_mapped():
    inside = mapped_by_a_block()
print(inside, mapped_by_a_block())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_large_blocks_are_mapped_inside_alone() -> None:
    """In a process of its own: a free block that fits comes before any mapping."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]
