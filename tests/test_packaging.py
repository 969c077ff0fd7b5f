"""What gets installed: passes/ as conet_fx.passes, and nothing called passes."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no build folder is left in the repository."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("conet_fx", "passes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = out.glob("conet_fx-*.whl")
    return path


def test_a_wheel_holds_the_passes_inside_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"conet_fx", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    for source in (ROOT / "passes").rglob("*.py"):
        assert f"conet_fx/passes/{source.relative_to(ROOT / 'passes')}" in names
    for source in (ROOT / "conet_fx").rglob("*"):
        if source.suffix in (".py", ".html", ".css", ".js", ".typed", ".yaml"):
            assert str(source.relative_to(ROOT)) in names


def test_an_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import importlib.util, conet_fx, conet_fx.passes.ops, conet_fx.cli\n"
        "from conet_fx.report import page\n"
        "print(conet_fx.passes.__file__, importlib.util.find_spec('passes'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = [sys.executable, "-c", program]
    output = subprocess.run(run, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout
    assert output.split() == [str(tmp_path / "conet_fx" / "passes" / "__init__.py"), "None"]


def test_public_names_exist() -> None:
    package = importlib.import_module("conet_fx")
    for name in package.__all__:
        assert hasattr(package, name)
