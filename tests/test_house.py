"""The rules of the house: which room may import which, how long a file may be, what is never used."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "sensorium"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 450

# Each room stands directly on these, and may import whatever they stand on.
STANDS_ON: dict[str, tuple[str, ...]] = {
    "config": (),
    "interrupt": (),
    "mixtures": ("config",),
    "recipes": ("mixtures",),
    "media": ("config", "interrupt"),
    "sequence": ("media",),
    "data": ("sequence",),
    "starter": ("data",),
    "model": ("data",),
    "losses": ("model",),
    "pretrained": ("model",),
    "train": ("losses", "pretrained"),
    "generate": ("pretrained", "starter"),
    "evals": ("generate",),
    "finetuning": ("train", "evals", "recipes"),
    "search": ("generate",),
    "serve": ("evals", "search"),
    "quickstart": ("finetuning",),
    "pretrain_demo": ("evals", "train", "recipes"),
    "commands": ("quickstart", "pretrain_demo", "serve"),
    "cli": ("commands",),
}
# The reader asks the starter where its files are: that function and nothing else.
EXCEPTIONS = {("data/reader.py", "sensorium.starter.starter_sources")}


@cache
def beneath(room: str) -> frozenset[str]:
    """Every room that this one may import, itself included."""
    return frozenset({room}).union(*(beneath(below) for below in STANDS_ON[room]))


def room_of(module: str) -> str:
    """``sensorium.data.loader`` -> ``data``; the package itself has no room."""
    return module.split(".")[1] if "." in module else ""


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of our own that a file imports, on any level, with the name taken from a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "sensorium")
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            if module.split(".")[0] == "sensorium":
                yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """Imports of a file (path within the package) against the direction."""
    package = ".".join(["sensorium", *Path(path).parent.parts])
    room = Path(path).parts[0].removesuffix(".py")
    if room == "__init__":
        allowed: frozenset[str] = frozenset()
    else:
        assert room in STANDS_ON, f"{path}: a new room; say in STANDS_ON what it may import"
        allowed = beneath(room)
    found = []
    for name in imported(ast.parse(source), package):
        # ``from sensorium import __version__`` takes nothing from a room.
        target = room_of(name)
        if target in STANDS_ON and target not in allowed and (path, name) not in EXCEPTIONS:
            found.append(f"{path} imports {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if relative == "__init__.py":
        # Names for type checkers only: at run time they are imported when first used.
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))
        ]
    assert violations(relative, ast.unparse(tree)) == []


@pytest.mark.parametrize(
    ("path", "source", "is_wrong"),
    [
        ("media/image.py", "import sensorium.data.loader", True),
        ("media/image.py", "def f():\n    from sensorium.train import trainer", True),
        ("media/image.py", "from sensorium import generate", True),
        ("media/image.py", "from ..model import layers", True),
        ("media/image.py", "from .errors import MediaError", False),
        ("data/reader.py", "from sensorium.starter import starter_sources", False),
        ("data/reader.py", "from sensorium.starter import load_table", True),
        ("data/shards.py", "from sensorium.starter import starter_sources", True),
        ("sequence/packing.py", "from sensorium.data import templates", True),
        ("pretrained/__init__.py", "from sensorium.generate import engine", True),
        ("generate/engine.py", "from sensorium.train import trainer", True),
        ("train/checkpoint.py", "from sensorium.pretrained import save_model", False),
        ("__init__.py", "from sensorium.media.parts import Image", True),
        ("cli.py", "import torch, sensorium", False),
    ],
)
def test_the_import_rule_can_fail(path: str, source: str, is_wrong: bool) -> None:
    assert bool(violations(path, source)) == is_wrong


def test_no_room_stands_on_itself() -> None:
    for room, below in STANDS_ON.items():
        assert all(room not in beneath(other) for other in below)


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_files_are_short(folder: str) -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")
    }
    assert {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > MAX_LINES} == {}


def unsafe(source: str) -> list[str]:
    """Ways of reading a file that run code in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [
            n for n in names if n.split(".")[0] in ("pickle", "dill", "joblib", "cloudpickle", "shelve")
        ]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            owner = getattr(node.func.value, "id", "")
            if owner == "torch" and keywords.get("weights_only") is not True:
                found.append("torch.load without weights_only=True")
            if owner in ("np", "numpy") and keywords.get("allow_pickle"):
                found.append("numpy.load with allow_pickle")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_nothing_unpickles(path: Path) -> None:
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_the_pickle_rule_can_fail(source: str) -> None:
    assert unsafe(source) != []


IMPORT_ALL = """
import importlib, sys

blocked = set(sys.argv[1].split(","))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
broken = []
for module in sys.argv[2].split(","):
    try:
        importlib.import_module(module)
    except Exception as error:
        broken.append(f"{module}: {type(error).__name__}: {error}")
print("\\n".join(broken))
"""


def test_every_module_imports_with_the_base_dependencies_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def import_name(requirement: str) -> str:
        return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("-", "_")

    base = {import_name(r) for r in project["dependencies"]}
    extras = (
        {import_name(r) for names in project["optional-dependencies"].values() for r in names}
        - base
        - {"sensorium"}
    )
    assert {"transformers", "pytest", "hypothesis", "fastapi"} <= extras
    modules = [
        ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for p in FILES
    ]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, ",".join(sorted(extras)), ",".join(modules)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "module", ["sensorium", "sensorium.cli", "sensorium.config", "sensorium.media.parts"]
)
def test_importing_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_no_test_file_sets_threads_for_all_others() -> None:
    """Sums differ with the number of threads, and a run in this process is compared with one in another."""
    line = "torch." + "set_num_threads"
    found = [
        path for path in (ROOT / "tests").rglob("*.py") if f"\n{line}" in path.read_text(encoding="utf-8")
    ]
    assert found == []
