"""What `filter`, `dedup`, `embed` and `caption` share: shards and models as typed, a bar, a way to go on."""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sensorium.commands.data.inputs import bar
from sensorium.commands.parts import STARTER, open_model, starter_model
from sensorium.data.engines import ENGINES, Progress
from sensorium.data.shards import file_sha256
from sensorium.data.vectors import Part
from sensorium.starter import starter_sources

if TYPE_CHECKING:
    from sensorium.generate.interface import Model

SHARDS = """SHARDS are Parquet files, folders of them, and starter:NAME (a source of the embedded data). What is
interrupted is continued by the same command. With --engine ray the same work is shared by --workers processes, or
by the cluster that RAY_ADDRESS names, with the same result; it needs: pip install 'sensorium[cluster]'"""
MIB = 2**20


class OpenedModel:
    """A model of ours as the curation of data uses it."""

    def __init__(self, model: "Model") -> None:
        self.model = model

    @property
    def modalities(self) -> Collection[str]:
        """Names of the media it takes."""
        return self.model.config.model.modalities

    def embed(self, items: Sequence[Part]) -> np.ndarray:
        """Unit vectors."""
        return self.model.embed(items)

    def caption(self, prompts: Sequence[Sequence[Part]], max_tokens: int) -> list[str]:
        """A text for each list of media."""
        return [str(text) for text in self.model.generate_many(prompts, "text", max_tokens=max_tokens)]


@dataclass(frozen=True)
class ModelByName:
    """Opens a model in whatever process needs it.

    Args:
        name: "starter", a model folder or a run folder.
        sha256: of its weights, so that a run is not continued with others.
    """

    name: str
    sha256: str

    @classmethod
    def of(cls, name: str) -> "ModelByName":
        """A model as typed; a run folder stands for its last checkpoint as it is now.

        Raises:
            FileNotFoundError: there are no weights.
        """
        folder = starter_model() if name == STARTER else Path(name).expanduser()
        last = folder / "last"
        if not (folder / "config.json").is_file() and last.is_file():
            folder = folder / last.read_text().strip()
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise FileNotFoundError(f"{weights}: no such file; give the folder of a model or a run")
        return cls(name if name == STARTER else str(folder.resolve()), file_sha256(weights))

    def __call__(self) -> OpenedModel:
        """Load it."""
        return OpenedModel(open_model(self.name))

    def asked(self) -> dict[str, Any]:
        """Its name and its weights."""
        return {"name": Path(self.name).name, "sha256": self.sha256}


def check_engine(engine: str, num_workers: int, shard_mb: int = 1) -> None:
    """Refuse what no engine is called and sizes under one, before anything is loaded."""
    if engine not in ENGINES:
        raise ValueError(f"--engine {engine}: unknown; known are {', '.join(ENGINES)}")
    if num_workers < 1:
        raise ValueError(f"--workers {num_workers}: give at least 1")
    if shard_mb < 1:
        raise ValueError(f"--shard-mb {shard_mb}: give at least 1")


def shard_paths(words: Sequence[str]) -> list[Path]:
    """The files and folders that words name.

    Raises:
        ValueError: there is no word, or no such source of the embedded data.
    """
    if not words:
        raise ValueError("no shards are named; give a .parquet file, a folder of them or starter:NAME")
    paths = []
    for word in words:
        if word.startswith("starter:"):
            known, name = starter_sources(), word.partition(":")[2]
            if name not in known:
                raise ValueError(f"unknown starter source {name!r}; known are {', '.join(sorted(known))}")
            paths.append(known[name])
        else:
            paths.append(Path(word).expanduser())
    return paths


@contextmanager
def bars() -> Iterator[Progress]:
    """A function that shows how far each pass is; an interruption says how to go on."""
    shown = ""
    before = 0
    step: Callable[[], None] | None = None
    with ExitStack() as stack:

        def progress(what: str, done: int, total: int) -> None:
            nonlocal shown, before, step
            if what != shown or step is None:
                stack.close()
                # What an earlier run did is not counted: the time left is that of the rest.
                shown, before = what, done
                step = stack.enter_context(bar(what, total - done))
                return
            for _ in range(done - before):
                step()
            before = done

        try:
            yield progress
        except KeyboardInterrupt:
            stack.close()
            print("stopped; the same command goes on from here", file=sys.stderr)
            raise


def tell(counts: Mapping[str, Any], out: Path, as_json: bool) -> None:
    """Say what a rewritten folder holds."""
    if as_json:
        print(json.dumps({"out": str(out), **counts}, ensure_ascii=False))
        return
    print(f"{out}: {counts['kept']:,} of {counts['rows']:,} samples")
    for reason, count in counts["reasons"].items():
        print(f"  {count:>8,} {reason}")
    if counts["reasons"]:
        print(f"each of them, and why: {out / 'rejected.jsonl'}")
