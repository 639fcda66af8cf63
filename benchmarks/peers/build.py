"""python benchmarks/peers/build.py [libraries | nengo-loihi] [FOLDER]: others' libraries in their own environment.

`libraries` (the default): those that train, with this interpreter's PyTorch; sinabs pins an older `nir`.
`nengo-loihi`: NengoLoihi with its emulator of Loihi 1, on the Python 3.9 and the NumPy of its last release.

Needs `uv`, and an interpreter of that release on the path or where uv can fetch it. Wheels are also taken from
UV_FIND_LINKS, or from PIP_FIND_LINKS where that is set instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

BUILD = Path(__file__).resolve().parents[2] / "build"
FOLDERS = {"libraries": BUILD / "peers", "nengo-loihi": BUILD / "nengo-loihi"}
LIBRARIES = ("spikingjelly==2.0.0", "norse==1.1.0", "snntorch==1.0.0", "sinabs==3.1.3")
NENGO_LOIHI = ("nengo-loihi==1.1.0", "nengo==3.2.0", "numpy==1.22.4", "scipy==1.8.1", "setuptools<81")


def python(folder: Path) -> Path:
    """The environment's interpreter."""
    return folder / "bin" / "python"


def build(name: str, folder: Path) -> None:
    """Create the environment; an existing one is kept and completed."""
    if name == "nengo-loihi":
        _install(folder, "3.9", NENGO_LOIHI)
        return
    torch = f"torch=={version('torch')}"
    backend = ["--torch-backend", "cpu"] if "+cpu" in torch and not _links() else []
    _install(folder, f"{sys.version_info.major}.{sys.version_info.minor}", (*backend, torch, *LIBRARIES))


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
