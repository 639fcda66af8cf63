"""Convolutions a few images at a time: the same numbers as PyTorch's in one go, where malloc is not tuned only."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from train import allocator
from train.layers import Conv2d, pieces

T, B, C = 3, 5, 4


@pytest.fixture(autouse=True)
def small_blocks_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_TUNED", False)
    monkeypatch.setattr(pieces, "RETURNED", 0)


def results(conv: nn.Module, x: Tensor, gradient: Tensor | None = None) -> list[Tensor | None]:
    """Result and all gradients."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    conv.zero_grad()
    out = conv(x)
    out.backward(torch.ones_like(out) if gradient is None else gradient)
    return [out.detach(), x.grad, *(p.grad for p in conv.parameters())]


def whole(conv: Conv2d, x: Tensor, gradient: Tensor | None = None) -> list[Tensor | None]:
    """PyTorch's, of all images at once."""
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,
        conv.bias is not None, dtype=conv.weight.dtype,
    )  # fmt: skip
    plain.load_state_dict(conv.state_dict())
    out, given, *others = results(plain, x.flatten(0, 1), None if gradient is None else gradient.flatten(0, 1))
    assert out is not None
    assert given is not None
    return [out.unflatten(0, x.shape[:2]), given.unflatten(0, x.shape[:2]), *others]


@given(
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([1, 2]),
    padding=st.sampled_from([0, 1, (1, 2)]),
    dilation=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    channels_last=st.booleans(),
    images=st.integers(1, T * B),
)
@settings(max_examples=40, deadline=None)
def test_any_convolution(channels_last: bool, images: int, **options: Any) -> None:
    torch.manual_seed(0)
    options["kernel_size"] = options.pop("kernel")
    conv = Conv2d(C, 6, **options, dtype=torch.float64)
    x = torch.randn(T, B, C, 9, 8, dtype=torch.float64)
    if channels_last:
        conv, x = conv.to(memory_format=torch.channels_last), x.movedim(2, -1).contiguous().movedim(-1, 2)
    gradient = torch.randn_like(conv(x))
    with pytest.MonkeyPatch.context() as patch:
        sizes: list[int] = []
        patch.setattr(pieces, "PIECE", images * max(gradient[0, 0].numel(), x[0, 0].numel()) * 8)
        run = torch.nn.functional.conv2d
        patch.setattr(pieces.functional, "conv2d", lambda piece, *given: sizes.append(len(piece)) or run(piece, *given))
        found = results(conv, x, gradient)
    assert sum(sizes) == T * B
    assert max(sizes) == images
    expected = whole(conv, x, gradient)
    assert found[0] is not None
    assert expected[0] is not None
    assert found[0].stride() == expected[0].stride()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_in_bfloat16_sums_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight's gradient over 15 pieces is as near to the true one as that of all images at once."""
    torch.manual_seed(0)
    conv, x = Conv2d(C, 6, 3), torch.randn(T, B, C, 9, 8)
    monkeypatch.setattr(pieces, "PIECE", 1)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = results(conv, x), whole(conv, x)
    true = whole(copy.deepcopy(conv).double(), x.double())
    assert found[0] is not None
    assert found[0].dtype == torch.bfloat16
    for one, other, exact in zip(found, expected, true, strict=True):
        assert one is not None
        assert other is not None
        assert exact is not None
        assert one.dtype == other.dtype
        assert float((one - exact).abs().max()) <= 1.5 * float((other - exact).abs().max())


def test_only_blocks_that_malloc_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, images = Conv2d(C, 6, 3), torch.zeros(10, C, 8, 8)
    largest = 10 * 6 * 6 * 6 * 4  # of the result: larger than the input's 10 * 4 * 8 * 8 * 4
    for limit, one_go in ((largest, True), (largest - 1, False)):
        monkeypatch.setattr(pieces, "RETURNED", limit)
        assert (pieces.form(conv, images) is None) is one_go
    monkeypatch.setattr(pieces, "RETURNED", largest)
    assert pieces.form(conv, images.requires_grad_()) is not None, "the gradient of the input is larger"
    monkeypatch.setattr(allocator, "_TUNED", True)
    assert pieces.form(conv, images) is None


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 1, "padding_mode": "circular"}])
def test_other_paddings_go_in_one(options: dict[str, Any]) -> None:
    conv = Conv2d(C, 6, 3, **options)
    assert pieces.form(conv, torch.zeros(10, C, 8, 8)) is None
    assert conv(torch.zeros(2, 5, C, 8, 8)).shape == (2, 5, 6, 8, 8)
