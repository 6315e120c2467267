"""The frame of the project: rooms, metadata, and that a wheel and an sdist hold what the rooms hold."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import marketd
from support import REPOSITORY, ROOMS, requires

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
RUNTIME_EXTRAS = {"daemon", "embedded", "pandas", "parquet", "cli"}
NOT_PACKAGED = {".pyc", ".md", ".so"}  # files in a room that only the repository needs, or that were built there


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_a_relative_link_in_the_package(room: str) -> None:
    link = REPOSITORY / "src" / "marketd" / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{room}"
    assert link.resolve() == REPOSITORY / room


def test_the_package_holds_no_other_link_and_no_folder_of_its_own() -> None:
    entries = [path for path in (REPOSITORY / "src" / "marketd").iterdir() if path.name != "__pycache__"]
    assert {path.name for path in entries if path.is_dir() or path.is_symlink()} == set(ROOMS)


def test_every_module_says_what_it_is_for() -> None:
    paths = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]
    paths += (REPOSITORY / "src" / "marketd").glob("*.py")
    silent = [path for path in paths if not ast.get_docstring(ast.parse(path.read_text()))]
    assert [str(path.relative_to(REPOSITORY)) for path in silent] == []


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")}
    assert sorted(str(f.relative_to(REPOSITORY)) for f in folders if not (f / "__init__.py").exists()) == []


def test_the_version_is_the_same_everywhere() -> None:
    assert marketd.__version__ == PYPROJECT["project"]["version"] == metadata.version("marketd")


def test_a_bare_install_brings_what_a_client_needs_and_no_more() -> None:
    names = {Requirement(text).name for text in PYPROJECT["project"]["dependencies"]}
    assert names == {"numpy", "pyzmq", "msgspec", "backports-zstd"}


def test_all_means_every_extra_a_user_may_want() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert set(extras) == RUNTIME_EXTRAS | {"all", "test", "bench"}
    (everything,) = map(Requirement, extras["all"])
    assert (everything.name, everything.extras) == ("marketd", RUNTIME_EXTRAS)


def test_the_console_script_is_declared() -> None:
    (script,) = metadata.distribution("marketd").entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("marketd", "marketd.ops.cli:main")


def test_a_wheel_holds_every_file_of_the_rooms(tmp_path: Path) -> None:
    wheel = _build("build_wheel", tmp_path)
    assert _files_of_the_package() == {name for name in _packed_in(wheel) if not name.endswith(".so")}


@requires("cc", "compiled")
def test_a_wheel_that_is_built_beside_a_compiler_has_the_compiled_part_without_a_warning(tmp_path: Path) -> None:
    wheel = _build("build_wheel", tmp_path, {"CFLAGS": "-Wall -Wextra -Werror"})
    (built,) = (name for name in _packed_in(wheel) if name.endswith(".so"))
    assert built.startswith("marketd/market/_compiled.")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    code = "from marketd.market import compiled; print(compiled.part.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == str(unpacked / built)


def test_without_a_compiler_the_rest_is_built(tmp_path: Path) -> None:
    wheel = _build("build_wheel", tmp_path, {"CC": "/bin/false"})
    assert _files_of_the_package() == set(_packed_in(wheel))


def test_each_c_source_is_built_and_each_header_known_to_it() -> None:
    (extension,) = PYPROJECT["tool"]["setuptools"]["ext-modules"]
    named = {*extension["sources"], *extension["depends"]}
    assert named == {f"src/marketd/market/c/{path.name}" for path in (REPOSITORY / "market" / "c").iterdir()}
    assert extension["optional"] is True


def test_a_wheel_built_from_the_sdist_is_the_same(tmp_path: Path) -> None:
    sdist = _build("build_sdist", tmp_path)
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()  # tar itself: tarfile's filter argument is younger than Debian 12's Python 3.11.2
    subprocess.run(["tar", "-xf", sdist, "-C", unpacked], check=True, timeout=60)
    (source,) = unpacked.iterdir()
    wheel = _call_backend("build_wheel", source)
    assert _files_of_the_package() == {name for name in _packed_in(wheel) if not name.endswith(".so")}


def _packed_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if name.startswith("marketd/")]


def _files_of_the_package() -> set[str]:
    own = {path.name for path in (REPOSITORY / "src" / "marketd").iterdir() if path.is_file()}
    rooms = {
        str(path.relative_to(REPOSITORY))
        for room in ROOMS
        for path in (REPOSITORY / room).rglob("*")
        if path.is_file() and path.suffix not in NOT_PACKAGED
    }
    return {f"marketd/{name}" for name in own | rooms}


def _build(hook: str, tmp_path: Path, environment: dict[str, str] | None = None) -> Path:
    """Build in a copy: setuptools leaves build folders beside the sources."""
    copy = tmp_path / "copy"
    copy.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in ("src", *ROOMS):
        shutil.copytree(REPOSITORY / name, copy / name, symlinks=True, ignore=ignore)
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy2(path, copy)
    return _call_backend(hook, copy, environment)


def _call_backend(hook: str, source: Path, environment: dict[str, str] | None = None) -> Path:
    code = f"from setuptools import build_meta; print(build_meta.{hook}('dist'))"
    (source / "dist").mkdir()
    command = [sys.executable, "-c", code]
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=source, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return source / "dist" / done.stdout.split()[-1]
