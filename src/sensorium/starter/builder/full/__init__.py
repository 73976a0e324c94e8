"""The sources of the full starter data: where they are found, what they need, and what version they are.

Every module of this folder that has `SOURCES: tuple[FullSource, ...]` contributes them; `driver.build_full` builds.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import shutil
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path

from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import Client, Package

_BUILDER = "sensorium.starter.builder"
# Their content is told by the packages' own hashes: a new pin must not make every source stale.
_NOT_CODE = {f"{_BUILDER}.pinned"}

_CLIENT_TOOLS: dict[Client, tuple[str, str]] = {
    "npm": ("npm", "apt-get install npm"),
    "apt": ("apt-get", "use a Debian or Ubuntu system, or put the .deb files into the cache folder"),
}
_DPKG = ("dpkg-deb", "apt-get install dpkg")
# Modules of Python outside of the base dependencies, each with the command that installs it.
_PYTHON_PACKAGES = {
    "resvg_py": "pip install 'sensorium[build]'",
    "nibabel": "pip install 'sensorium[build]'",
    "onnxruntime": "pip install 'sensorium[build]'",
    "hibari": "pip install 'sensorium[build]'",
    "py_nanotts": "pip install py-nanotts",
}


def module_names() -> tuple[str, ...]:
    """Return the full names of the modules of this folder."""
    return tuple(f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__))


def load_sources(modules: Iterable[str] | None = None) -> dict[str, FullSource]:
    """Return the sources by name, in order of their names.

    Args:
        modules: full names of modules that may have `SOURCES`; those of this folder when None.
    """
    found: dict[str, FullSource] = {}
    for name in modules if modules is not None else module_names():
        for source in getattr(importlib.import_module(name), "SOURCES", ()):
            assert source.name not in found, f"two sources are named {source.name!r}"
            found[source.name] = source
    return dict(sorted(found.items()))


def code_version(source: FullSource) -> str:
    """Return a hash of the code that makes a source: its module, what that imports of ours, and their lists."""
    digest = sha256()
    for path in sorted(_code_files(_module_of(source)), key=lambda path: path.name):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def missing_tools(sources: Iterable[FullSource], cache_folder: Path) -> dict[str, str]:
    """Return {what is missing on this machine: the command that installs it}, all at once.

    A client is asked for only where a package of its kind is not in the cache folder yet.
    """
    tools: dict[str, str] = {}
    code = ""
    for source in sources:
        tools.update(source.tools)
        code += _code_text(_module_of(source))
        for package in source.packages:
            if package.file_name.endswith(".deb"):
                tools.update([_DPKG])
            if package.client in _CLIENT_TOOLS and not (cache_folder / package.file_name).is_file():
                tools.update([_CLIENT_TOOLS[package.client]])
    missing = {tool: mend for tool, mend in tools.items() if shutil.which(tool) is None}
    for module, mend in _PYTHON_PACKAGES.items():
        # Optional packages are imported inside functions, or by a process that is started.
        if f"import {module}\n" in code and importlib.util.find_spec(module) is None:
            missing[f"the Python package {module}"] = mend
    return dict(sorted(missing.items()))


def packages_of(sources: Iterable[FullSource]) -> list[Package]:
    """Return the packages of some sources, each once, in a fixed order."""
    found = {package.file_name: package for source in sources for package in source.packages}
    return [found[name] for name in sorted(found)]


def _module_of(source: FullSource) -> str:
    # `rows` may be a partial of a function.
    return str(getattr(source.rows, "func", source.rows).__module__)


@cache
def _code_files(module: str) -> frozenset[Path]:
    """The files of a module and of our builder's modules beneath it, with the lists of words they name."""
    files: set[Path] = set()
    waiting, seen = [module], set(_NOT_CODE)
    while waiting:
        name = waiting.pop()
        path = _path_of(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        files.add(path)
        text = path.read_text(encoding="utf-8")
        files |= {
            beside
            for beside in path.parent.iterdir()
            if beside.suffix in (".txt", ".tsv") and beside.name in text
        }
        waiting += [found for found in _imports(text) if found.startswith(_BUILDER)]
    return frozenset(files)


@cache
def _code_text(module: str) -> str:
    return "".join(
        path.read_text(encoding="utf-8") for path in sorted(_code_files(module)) if path.suffix == ".py"
    )


def _imports(text: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported may be a module of the package, or a name in it.
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _path_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):
        return None
    # The folders' own files hold no code of a source; this one least of all.
    if spec is None or spec.origin is None or Path(spec.origin).name == "__init__.py":
        return None
    return Path(spec.origin)
