"""The import rule: train <- export <- deploy <- sim, Lava in one place, and lean imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "train": {"train"},
    "export": {"train", "export"},
    "deploy": {"train", "export", "deploy"},
    "sim": {"train", "export", "deploy", "sim"},
}
PACKAGES = set(ALLOWED)


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_import_only_what_lies_before_them(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imported(file)} & PACKAGES
        assert ours <= ALLOWED[package], f"{file} imports {ours - ALLOWED[package]}"


def test_lava_is_imported_in_one_sub_package_only() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            if "deploy/lava" not in file.as_posix():
                assert not any(name.split(".")[0] == "lava" for name in imported(file)), file


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_reading_a_network_needs_neither_torch_nor_lava() -> None:
    loaded = modules_after("import export.store, deploy.lava")
    assert not loaded & {"torch", "lava"}


def test_training_needs_neither_lava_nor_nir_nor_h5py() -> None:
    loaded = modules_after("import train.loop, train.models")
    assert not loaded & {"lava", "nir", "h5py"}


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_help_reads_without_loading_torch(package: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", package, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert not any(line.split("|")[-1].strip() == "torch" for line in done.stderr.splitlines())
    assert f"python -m {package}" in done.stdout
