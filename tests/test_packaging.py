"""What gets installed: passes/ as conet_fx.passes, and nothing called passes."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_wheel_holds_the_passes_inside_the_package(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("conet_fx-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"conet_fx", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    for source in (ROOT / "passes").rglob("*.py"):
        assert f"conet_fx/passes/{source.relative_to(ROOT / 'passes')}" in names
    for source in (ROOT / "conet_fx").rglob("*"):
        if source.suffix in (".py", ".html", ".css", ".js", ".typed"):
            assert str(source.relative_to(ROOT)) in names


def test_public_names_exist() -> None:
    package = importlib.import_module("conet_fx")
    for name in package.__all__:
        assert hasattr(package, name)
