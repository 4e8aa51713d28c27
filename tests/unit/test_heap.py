"""Large blocks are mappings of their own while a model loads, whatever was freed before."""

import ctypes
import platform

import pytest
import torch

from drafthouse.engine.heap import give_back_freed, large_blocks_mapped

MIB = 1 << 20


class MallInfo(ctypes.Structure):
    """glibc's account of its heaps; `hblks` counts blocks that are mappings of their own."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", *"abcdef")]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_large_blocks_are_mapped_inside_alone() -> None:
    account = ctypes.CDLL(None).mallinfo2
    account.restype = MallInfo

    def mapped_by_a_block() -> int:
        before = account().hblks
        block = torch.empty(4 * MIB, dtype=torch.uint8)
        return int(account().hblks - before) if len(block) else 0

    torch.empty(24 * MIB, dtype=torch.uint8)  # freed at once: from now on glibc keeps blocks up to this size
    with large_blocks_mapped():
        assert mapped_by_a_block() == 1
    assert mapped_by_a_block() == 0
    give_back_freed()
