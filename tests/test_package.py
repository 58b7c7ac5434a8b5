"""What is installed is complete: code, types, documentation, page and migrations, in one wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("ragchat", "migrations", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    build = "import setuptools.build_meta as build; build.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def _files(folder: Path, *patterns: str) -> set[str]:
    return {file.relative_to(folder).as_posix() for pattern in patterns for file in folder.rglob(pattern)}


def test_the_wheel_has_every_file_and_nothing_else(wheel: Path) -> None:
    expected = {f"ragchat/{name}" for name in _files(ROOT / "ragchat", "*.py", "py.typed")}
    expected |= {
        f"ragchat/web/{name}" for name in _files(ROOT / "ragchat/web", "*.*") if "__pycache__" not in name
    }
    expected |= {f"ragchat/migrations/{name}" for name in _files(ROOT / "migrations", "*.py")}
    expected |= {f"ragchat/docs/{name}" for name in _files(ROOT / "docs", "*.py", "*.md")}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected


def test_an_installed_ragchat_finds_its_files_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from importlib.resources import files
import ragchat
assert ragchat.__file__.startswith(sys.argv[1]), ragchat.__file__
import ragchat.cli, ragchat.app
for package, suffix in (("docs", ".md"), ("web", ".html"), ("migrations", "_initial.py")):
    assert any(file.name.endswith(suffix) for file in files(f"ragchat.{package}").iterdir()), package
"""
    subprocess.run([sys.executable, "-I", "-c", program, str(tmp_path)], cwd=tmp_path, check=True)


def test_one_version_is_everywhere() -> None:
    assert metadata.version("ragchat") == PROJECT["version"]
    assert f": {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def _installed_for(name: str, extras: set[str], found: set[str]) -> set[str]:
    """The names of all that is installed because ``name`` is, with ``extras``; added to ``found``."""
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            continue
        dependency = canonicalize_name(requirement.name)
        if dependency not in found:
            found.add(dependency)
            _installed_for(dependency, requirement.extras, found)
    return found


def test_everything_that_is_installed_is_pinned() -> None:
    """Else a build next year would not agree with one today. How to write the file stands at its top."""
    pinned = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if not line.startswith("#")
    }
    assert _installed_for("ragchat", {"dev", "postgres"}, {"ragchat"}) - pinned == {"ragchat"}


def test_the_readme_has_the_command_that_ci_runs() -> None:
    """`.ci/run` takes it from there; this says so before anybody waits for it."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    command = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[dev]' && .venv/bin/pytest"
    assert command in lines
