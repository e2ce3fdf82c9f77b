"""What the values of the loss, tested elsewhere, do not show of the compiled passes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from dcd_components.losses.wavelet_detail import WaveletDetailLoss
from dcd_components.wavelets import band_energies, dwt_numba, numba_kernels, numba_taps
from dcd_components.wavelets.dwt_numba import Layout

LAST = torch.channels_last_3d


def test_machine_code_is_made_anew_when_its_callees_change() -> None:
    source = Path(numba_taps.__file__).read_bytes()
    assert hashlib.sha256(source).hexdigest()[:16] == numba_kernels.TAPS, "taps.py changed: write its hash into TAPS"


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_map_is_read_as_it_lies(batch: int, channels_last: bool, turned: bool) -> None:
    x = torch.randn(batch, 4, 5, 6, 7)
    x = x.contiguous(memory_format=LAST) if channels_last else x
    x = (
        x.transpose(3, 4).contiguous(memory_format=LAST if channels_last else torch.contiguous_format).transpose(3, 4)
        if turned
        else x
    )
    assert Layout.of(x) == (channels_last, turned)
    assert Layout.of(x).planes(x).data_ptr() == x.data_ptr()
    assert torch.equal(Layout.of(x).maps(Layout.of(x).planes(x), 4), x)


def test_threads_change_nothing() -> None:
    """Planes are done alike whoever does them; only the order of a sum of energies might differ."""
    x, bands = torch.randn(2, 8, 20, 24, 22), ["aaa", "ddd"]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            coefficients, energies = dwt_numba.analyse(x, bands, "db4", "periodization", measure=True)
            back = dwt_numba.adjoin(coefficients, bands, "db4", "periodization", x, None, torch.tensor(0.5))
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
