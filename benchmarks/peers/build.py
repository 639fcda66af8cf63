"""python benchmarks/peers/build.py [FOLDER]: the other libraries, with this interpreter's PyTorch, in an environment.

They get an environment of their own because sinabs pins an older `nir`. Needs `uv`. Wheels are also taken from
UV_FIND_LINKS, or from PIP_FIND_LINKS where that is set instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[2] / "build" / "peers"
PACKAGES = ("spikingjelly==2.0.0", "norse==1.1.0", "snntorch==1.0.0", "sinabs==3.1.3")


def python(folder: Path) -> Path:
    """The environment's interpreter."""
    return folder / "bin" / "python"


def build(folder: Path) -> None:
    """Create the environment; an existing one is kept and completed."""
    environment = dict(os.environ)
    environment.setdefault("UV_FIND_LINKS", environment.get("PIP_FIND_LINKS", ""))
    release = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run(["uv", "venv", "--allow-existing", "--python", release, str(folder)], check=True, env=environment)
    torch = f"torch=={version('torch')}"
    backend = ["--torch-backend", "cpu"] if "+cpu" in torch and not environment["UV_FIND_LINKS"] else []
    command = ["uv", "pip", "install", "--python", str(python(folder)), *backend, torch, *PACKAGES]
    subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
