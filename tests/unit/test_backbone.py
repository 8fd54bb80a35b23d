"""The blocks of the backbone, beside what they are written as."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from condinst.backbone import ConvNorm

LEARNING = """
import torch
from condinst.backbone import ConvNorm
torch.set_num_threads(2)
part = ConvNorm(8, 16, 1, 2).to(memory_format=torch.channels_last)
images = torch.randn(5, 8, 24, 24).contiguous(memory_format=torch.channels_last).requires_grad_()
for _ in range(300):
    part(images).sum().backward()
"""


@pytest.mark.parametrize("inp", [3, 8, 16, 24])
@pytest.mark.parametrize(("height", "width"), [(12, 16), (7, 9)])
def test_a_strided_1x1_convolution_is_one_however_narrow(inp: int, height: int, width: int) -> None:
    part = ConvNorm(inp, 16, 1, 2).double()
    x = torch.randn(3, inp, height, width, dtype=torch.float64)
    plain = F.conv2d(x, part.conv.weight, stride=2)
    assert torch.allclose(part.train()(x), F.batch_norm(plain, None, None, training=True))
    before = part.eval()(x)
    part.fold()
    assert torch.allclose(part(x), before)


def test_narrow_ones_learn_in_several_threads_without_harm_to_memory() -> None:
    """In a process of its own, since what is harmed ends it."""
    done = subprocess.run(
        [sys.executable, "-c", LEARNING], env={**os.environ, "MALLOC_CHECK_": "3"}, timeout=300, check=False
    )
    assert done.returncode == 0
