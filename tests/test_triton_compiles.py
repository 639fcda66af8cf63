"""What the interpreter of Triton takes its compiler may refuse: kernels are compiled, too, for a GPU not here."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from train.kernels import triton_lif, triton_loihi


def compiled(kernel, kinds, **constants):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]


for current, number, memory in (("*fp32", "*i32", False), ("*fp64", "*i64", True)):
    names = ("thresholds", "biases", "keeps_u", "keeps_v", "us", "vs")
    kinds = {"current": current, "fired": "*u8", "membrane": "*i64", **dict.fromkeys(names, number)}
    compiled(triton_loihi.scan_kernel, kinds, memory=memory, subtract=memory, watched=memory, block=256)
kinds = dict.fromkeys(("x", "spikes", "gradient", "x_gradient"), "*bf16")
kinds |= dict.fromkeys(("potentials", "leak", "gain", "bias", "sums"), "*fp32") | {"threshold": "fp32", "k": "fp32"}
numbers = {**kinds, "leak": "fp32", "gain": "fp32", "bias": "fp32"}
for each, given in ((True, kinds), (False, numbers)):
    compiled(triton_lif.forward_kernel, given, each=each, keep=True, block=256)
for kind in range(5):
    compiled(triton_lif.backward_kernel, kinds, each=True, kind=kind, detach=False, wanted=True, block=256)
compiled(triton_lif.backward_kernel, numbers, each=False, kind=0, detach=False, wanted=False, block=256)
"""


def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    if find_spec("triton") is None:  # not imported here: tests after this one want its interpreter
        pytest.skip("triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
