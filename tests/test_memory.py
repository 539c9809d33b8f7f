"""Kept memory: used again when nothing sees it any more, and not before."""

import threading

import numpy as np
import pytest
import torch

from cvxlayers import memory


@pytest.fixture(autouse=True)
def nothing_idle():
    memory._idle.clear()
    yield
    memory._idle.clear()


def test_memory_is_used_again_when_the_last_view_is_gone():
    a = memory.empty((128, 2560))
    address, view = a.ctypes.data, a[3:, 5].reshape(-1)
    del a
    assert not memory._idle
    assert memory.empty((128, 2560)).ctypes.data != address
    del view
    assert memory.zeros((2560, 120)).ctypes.data == address  # a little smaller


def test_a_tensor_keeps_the_memory():
    a = memory.zeros((128, 2560))
    row = torch.from_numpy(a)[3]
    del a
    assert not memory._idle
    del row
    assert len(memory._idle) == 1


def test_arrays_of_all_sizes_are_what_numpy_makes():
    for shape in ((), (0, 3), (5,), (200, 300), (2, 1 << 20)):
        for _ in range(2):
            a = memory.zeros(shape)
            assert a.shape == shape and a.dtype == np.float64 and a.flags.carray and not a.any()
            a[...] = 1.0  # what the next one must not see


def test_memory_of_one_type_is_used_again_for_the_other():
    for shape in ((129, 255), (1 << 15,), (3, 10_923)):  # odd numbers of float32, too
        a = memory.empty(shape, np.float32)
        address = a.ctypes.data
        assert a.shape == shape and a.dtype == np.float32 and a.flags.carray
        a.fill(1)
        del a
        b = memory.empty((int(np.prod(shape)) // 2,))
        assert b.dtype == np.float64 and b.ctypes.data == address
        b.fill(2)
        del b
        memory._idle.clear()


def test_private_copies_views_only():
    for a in (memory.empty((200, 300)), np.empty(3)):
        assert memory.private(a) is a
        assert not np.shares_memory(memory.private(a[1:]), a)
    assert memory.private(np.empty((2, 3)).T).flags.carray


def test_no_more_than_a_few_blocks_are_kept():
    arrays = [memory.empty((1 << 14,)) for _ in range(100)]
    del arrays
    assert len(memory._idle) <= memory._KEPT


def test_threads_never_share_memory():
    wrong = []

    def work(number):
        for _ in range(300):
            a, b = memory.empty((1 << 14,)), memory.empty((1 << 14,))
            a.fill(number)
            b.fill(-number)
            if not (a == number).all() or not (b == -number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 9)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
