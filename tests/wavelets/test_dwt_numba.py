"""What the values of the loss, tested elsewhere, do not show of the compiled passes."""

from __future__ import annotations

from types import FunctionType

import numpy as np
import pytest
import pywt
import torch
from numba.core.registry import CPUDispatcher

from dcd_components.losses.wavelet_detail import WaveletDetailLoss
from dcd_components.wavelets import band_energies, dwt_numba, numba_kernels
from dcd_components.wavelets.transform import half_matrices


def test_what_compiled_functions_call_stands_in_their_own_file() -> None:
    """Numba makes machine code anew when the file of a function changes, and looks at no other."""
    compiled = [value for value in vars(numba_kernels).values() if isinstance(value, CPUDispatcher)]
    assert len(compiled) > 10
    for function in compiled:
        used = [function.py_func.__globals__.get(name) for name in function.py_func.__code__.co_names]
        called = {value.__module__ for value in used if isinstance(value, CPUDispatcher | FunctionType)}
        assert called <= {numba_kernels.__name__}


@pytest.mark.parametrize("mode", pywt.Modes.modes)
@pytest.mark.parametrize("wavelet", ["haar", "db4", "bior2.2", "rbio1.3", "db10"])
def test_a_filter_along_an_extended_line_is_the_matrix_of_pywt(wavelet: str, mode: str) -> None:
    for n in (*range(1, 12), 33):
        columns = dwt_numba._lines(n, wavelet, mode, torch.float64)
        matrices = half_matrices(n, wavelet, mode, torch.float64, torch.device("cpu"))
        points, width = len(matrices["a"]), columns.filters.shape[1]
        extended = np.zeros((2 * points + width - 2, n))
        left = int(columns.left)
        extended[left : left + n] = np.eye(n)
        places = (columns.sources - columns.left).astype(int)
        for pad, sources, weights in zip(columns.pads.astype(int), places, columns.weights, strict=True):
            np.add.at(extended[pad], sources, weights)
        for letter, taps in zip("ad", columns.filters, strict=True):
            found = np.stack([taps @ extended[2 * k : 2 * k + width] for k in range(points)])
            np.testing.assert_allclose(found, matrices[letter], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_maps_are_read_as_they_lie(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 5, 6).to(dtype)
    assert dwt_numba._array(x).ctypes.data == x.data_ptr()


def test_threads_change_nothing() -> None:
    """Planes are done alike whoever does them, and their energies are added in one order."""
    x, bands = torch.randn(2, 8, 20, 24, 22), (("aaa", "ddd"), ("aaa", "ddd"))
    offset, weights = torch.zeros(2, 8), torch.tensor([0.5, 0.2, -0.5, -0.2, -0.2])
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            energies = dwt_numba.energies(x, bands, "db4", "periodization", offset)
            found.append((energies, dwt_numba.gradient(x, bands, "db4", "periodization", offset, weights)))
    finally:
        torch.set_num_threads(threads)
    assert x.numel() > dwt_numba.WORTH_SHARING
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_cpus_use_the_compiled_passes() -> None:
    assert band_energies._passes(torch.zeros(1)) is dwt_numba


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_wide_student_of_a_half_precision_teacher_is_not_rounded(offset: float) -> None:
    loss = WaveletDetailLoss(2, 4, levels=1)
    student, teacher = 0.1 * torch.randn(1, 2, 12, 12, 12) + offset, torch.randn(1, 4, 12, 12, 12).bfloat16()
    mixed, wide = loss(student, teacher), loss(student, teacher.float())
    assert mixed == wide


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_of_half_precision_give_a_result_in_single(dtype: torch.dtype) -> None:
    loss = WaveletDetailLoss(2, 4, levels=1).to(dtype)
    value = loss(torch.randn(1, 2, 8, 8, 8, dtype=dtype), torch.randn(1, 4, 8, 8, 8, dtype=dtype))
    value.backward()
    weight = loss.projection.weight
    assert value.dtype == torch.float32
    assert weight.grad is not None
    assert weight.grad.dtype == dtype


@pytest.mark.parametrize("frozen", ["student", "projection", "both"])
def test_what_is_frozen_needs_no_gradient(frozen: str) -> None:
    loss, student = WaveletDetailLoss(2, 4, levels=1), torch.randn(1, 2, 8, 8, 8, requires_grad=frozen == "projection")
    loss.requires_grad_(frozen == "student")
    value = loss(student, torch.randn(1, 4, 8, 8, 8))
    assert value.requires_grad == (frozen != "both")
    if value.requires_grad:
        value.backward()
    assert (student.grad is None) == (frozen != "projection")
    assert (loss.projection.weight.grad is None) == (frozen != "student")
