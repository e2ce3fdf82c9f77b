"""What the values of the loss, tested elsewhere, do not show of the compiled passes."""

from __future__ import annotations

from types import FunctionType

import pytest
import torch
from numba.core.registry import CPUDispatcher

from dcd_components.losses.wavelet_detail import WaveletDetailLoss
from dcd_components.wavelets import band_energies, dwt_numba, numba_kernels
from dcd_components.wavelets.dwt_numba import MemoryLayout

LAST = torch.channels_last_3d


def test_what_compiled_functions_call_stands_in_their_own_file() -> None:
    """Numba makes machine code anew when the file of a function changes, and looks at no other."""
    compiled = [value for value in vars(numba_kernels).values() if isinstance(value, CPUDispatcher)]
    assert len(compiled) > 10
    for function in compiled:
        used = [function.py_func.__globals__.get(name) for name in function.py_func.__code__.co_names]
        called = {value.__module__ for value in used if isinstance(value, CPUDispatcher | FunctionType)}
        assert called <= {numba_kernels.__name__}


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_map_is_read_as_it_lies(batch: int, channels_last: bool, transposed: bool) -> None:
    x = torch.randn(batch, 4, 5, 6, 7)
    x = x.contiguous(memory_format=LAST) if channels_last else x
    x = (
        x.transpose(3, 4).contiguous(memory_format=LAST if channels_last else torch.contiguous_format).transpose(3, 4)
        if transposed
        else x
    )
    assert MemoryLayout.of(x) == (channels_last, transposed)
    assert MemoryLayout.of(x).planes(x).data_ptr() == x.data_ptr()
    assert torch.equal(MemoryLayout.of(x).maps(MemoryLayout.of(x).planes(x), 4), x)


def test_threads_change_nothing() -> None:
    """Planes are done alike whoever does them; only the order of a sum of energies might differ."""
    x, bands = torch.randn(2, 8, 20, 24, 22), ["aaa", "ddd"]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            coefficients, energies = dwt_numba.analyse(x, bands, "db4", "periodization", measure=True)
            back = dwt_numba.adjoint(coefficients, bands, "db4", "periodization", x, None, torch.tensor(0.5))
            found.append((coefficients, back, energies))
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
