"""Fetching the pinned packages with their ordinary clients, and reading them member by member.

Archives are never extracted: a member is read into memory by its name, so no path inside an archive can
reach the file system.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from sensorium.data.shards import file_sha256

Client = Literal["npm", "apt", "pip"]

_TOOLS: dict[Client, tuple[str, str]] = {
    "npm": ("npm", "apt-get install npm"),
    "apt": ("apt-get", "use a Debian or Ubuntu system, or copy the .deb file into the cache folder"),
    "pip": (sys.executable, "python -m ensurepip"),
}


class BuildError(RuntimeError):
    """The sample cannot be built; the message names the thing and the mend."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned package: who fetches it, what the client saves it as, and its hash."""

    client: Client
    name: str
    version: str
    file_name: str
    sha256: str

    @property
    def command(self) -> list[str]:
        """The command that fetches the package into the current folder."""
        if self.client == "npm":
            return ["npm", "pack", f"{self.name}@{self.version}"]
        if self.client == "apt":
            return ["apt-get", "download", f"{self.name}={self.version}"]
        return [sys.executable, "-m", "pip", "download", "--no-deps", f"{self.name}=={self.version}"]


def fetch(package: Package, cache: Path) -> Path:
    """Return the package's file in the cache folder, fetching it first if it is not there.

    Raises:
        BuildError: the client is missing or fails, or the file is not the pinned one.
    """
    path = cache / package.file_name
    if not path.is_file():
        tool, mend = _TOOLS[package.client]
        if shutil.which(tool) is None:
            raise BuildError(f"{package.name}: the tool {tool!r} is missing; install it: {mend}")
        cache.mkdir(parents=True, exist_ok=True)
        print(f"fetching {package.name} {package.version}", flush=True)
        done = subprocess.run(package.command, cwd=cache, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not path.is_file():
            shown = " ".join(package.command)
            raise BuildError(
                f"{package.name}: `{shown}` did not give {path.name}: {done.stderr.strip()[-500:]}"
            )
    found = file_sha256(path)
    if found != package.sha256:
        raise BuildError(
            f"{path.name}: SHA-256 is {found}, expected {package.sha256}; delete the file to fetch it again"
        )
    return path


def read_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the regular files of an archive whose name is wanted, in archive order.

    Args:
        path: a .tgz, .whl or .deb file; names in a .deb are relative to the file system's root.
        wanted: chooses by name, before anything is read.
    """
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not name.endswith("/") and wanted(name):
                    yield name, archive.read(name)
        return
    opened = _open_deb(path) if path.suffix == ".deb" else _open_tgz(path)
    with opened as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and wanted(name):
                content = tar.extractfile(member)
                assert content is not None
                yield name, content.read()


def read_texts(path: Path, *names: str) -> list[str]:
    """Return the text of some members, in the order of the names.

    Raises:
        BuildError: a member is not in the archive.
    """
    found = dict(read_members(path, lambda name: name in names))
    missing = [name for name in names if name not in found]
    if missing:
        raise BuildError(f"{path.name}: {missing[0]} is not in it; the pinned version should hold it")
    return [found[name].decode("utf-8") for name in names]


@contextmanager
def _open_tgz(path: Path) -> Iterator[tarfile.TarFile]:
    with tarfile.open(path, mode="r|gz") as tar:
        yield tar


@contextmanager
def _open_deb(path: Path) -> Iterator[tarfile.TarFile]:
    if shutil.which("dpkg-deb") is None:
        raise BuildError("the tool 'dpkg-deb' is missing; install it: apt-get install dpkg")
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE)
    stream: IO[bytes] | None = process.stdout
    assert stream is not None
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            yield tar
        # Read to the end, or the client would fail on a closed pipe.
        while stream.read(1 << 20):
            pass
    finally:
        stream.close()
        status = process.wait()
    if status != 0:
        raise BuildError(
            f"{path.name}: dpkg-deb failed with status {status}; delete the file to fetch it again"
        )
