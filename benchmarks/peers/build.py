"""python benchmarks/peers/build.py [libraries | cupy | nengo-loihi] [FOLDER]: others' libraries, apart from ours.

`libraries` (the default): those that train, with this interpreter's PyTorch; sinabs pins an older `nir`.
`cupy`: SpikingJelly's last release with kernels in CuPy (its 2.0 has them in Triton and in CUDA), with this
interpreter's PyTorch and the CuPy of its CUDA: `cupy-cuda12x`, `cupy-cuda13x`; without CuPy where it has no CUDA.
`nengo-loihi`: NengoLoihi with its emulator of Loihi 1, on the Python 3.9 and the NumPy of its last release.

Needs `uv`, and an interpreter of that release on the path or where uv can fetch it. Wheels are also taken from
UV_FIND_LINKS, or from PIP_FIND_LINKS where that is set instead.

SpikingJelly 2.0's kernels in CUDA need a CUDA toolkit, and are compiled, as its README says, by this command in the
environment of `libraries`: `SJ_BUILD_NATIVE_CUDA=1 uv pip install --no-build-isolation --no-binary spikingjelly
--reinstall-package spikingjelly --no-cache spikingjelly==2.0.0`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

BUILD = Path(__file__).resolve().parents[2] / "build"
FOLDERS = {"libraries": BUILD / "peers", "cupy": BUILD / "peers-cupy", "nengo-loihi": BUILD / "nengo-loihi"}
LIBRARIES = ("spikingjelly==2.0.0", "norse==1.1.0", "snntorch==1.0.0", "sinabs==3.1.3")
CUPY = "spikingjelly==0.0.0.0.14"
NENGO_LOIHI = ("nengo-loihi==1.1.0", "nengo==3.2.0", "numpy==1.22.4", "scipy==1.8.1", "setuptools<81")


def python(folder: Path) -> Path:
    """The environment's interpreter."""
    return folder / "bin" / "python"


def build(name: str, folder: Path) -> None:
    """Create the environment; an existing one is kept and completed."""
    if name == "nengo-loihi":
        _install(folder, "3.9", NENGO_LOIHI)
        return
    from torch.version import cuda

    release = version("torch")
    _, _, built_for = release.partition("+")  # 2.13.0+cpu
    backend = ["--torch-backend", built_for] if built_for and not _links() else []
    libraries = LIBRARIES if name == "libraries" else (CUPY, *([f"cupy-cuda{cuda.split('.')[0]}x"] if cuda else []))
    _install(folder, f"{sys.version_info.major}.{sys.version_info.minor}", (*backend, f"torch=={release}", *libraries))


def _links() -> str:
    return os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))


def _install(folder: Path, release: str, arguments: Sequence[str]) -> None:
    environment = {**os.environ, "UV_FIND_LINKS": _links()}
    subprocess.run(["uv", "venv", "--allow-existing", "--python", release, str(folder)], check=True, env=environment)
    command = ["uv", "pip", "install", "--no-config", "--python", str(python(folder)), *arguments]  # our pins are ours
    subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "libraries"
    if chosen not in FOLDERS:
        raise SystemExit(f"{chosen}: known are {', '.join(FOLDERS)}")
    build(chosen, Path(sys.argv[2]) if len(sys.argv) > 2 else FOLDERS[chosen])
