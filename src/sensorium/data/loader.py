"""The training stream: batch ``n`` is a pure function of (configuration, seed, n).

The whole state of the data is that one integer, so resuming is instant and exact. Every source contributes its
weight's share to every batch; inside a source the order is a new permutation every epoch.
"""

import hashlib
import logging
import queue
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sensorium.config import DataConfig, ModelConfig, SourceConfig
from sensorium.data.augment import augment
from sensorium.data.templates import Medium, Sample, build_documents
from sensorium.media.errors import MediaError
from sensorium.media.modality import get_modality
from sensorium.sequence.document import Document, layout
from sensorium.sequence.packing import Batch, pack_layouts
from sensorium.sequence.tokenizer import Tokenizer
from sensorium.starter import starter_sources

log = logging.getLogger(__name__)
MAX_BAD_RATE = 0.05  # over this share of visits a run stops: the data, not a sample, is broken


def read_rows(path: str, split: str) -> list[dict[str, Any]]:
    """All rows of a split of a Parquet file, a folder of them, or "starter:NAME"."""
    if path.startswith("starter:"):
        known = starter_sources()
        name = path.partition(":")[2]
        if name not in known:
            raise ValueError(f"unknown starter source {name!r}; known are {', '.join(sorted(known))}")
        files = [known[name]]
    else:
        root = Path(path)
        files = sorted(root.rglob("*.parquet")) if root.is_dir() else [root]
        if not files or not files[0].is_file():
            raise FileNotFoundError(
                f"no Parquet data at {path}; give a .parquet file, a folder of them or starter:NAME"
            )
    table = pa.concat_tables([pq.read_table(file) for file in files])
    return table.filter(pc.equal(table["split"], split)).to_pylist(maps_as_pydicts="strict")


@dataclass
class Source:
    """One source in memory: rows with encoded media, decoded arrays cached as they are first used."""

    config: SourceConfig
    rows: list[dict[str, Any]]
    cache: dict[tuple[int, str, int], np.ndarray] = field(default_factory=dict)
    permutations: dict[int, np.ndarray] = field(default_factory=dict)

    def index_of(self, visit: int, seed: int) -> int:
        """Which row the n-th visit takes: a permutation per epoch."""
        epoch, position = divmod(visit, len(self.rows))
        if epoch not in self.permutations:
            self.permutations = {
                epoch: np.random.default_rng([seed, _number(self.config.path), epoch]).permutation(
                    len(self.rows)
                )
            }
        return int(self.permutations[epoch][position])

    def array(
        self, index: int, modality: str, ordinal: int, medium: dict[str, Any], model: ModelConfig
    ) -> np.ndarray:
        """The clean array ``[C, H, W]`` of a medium of a row."""
        key = (index, modality, ordinal)
        if key not in self.cache:
            entry = get_modality(modality)
            # The path comes last: its suffix tells formats that have no signature.
            name = f"{self.rows[index]['id']}: {medium.get('path') or modality}"
            plain = entry.decode(medium["bytes"], name)
            self.cache[key] = entry.to_array(plain, model.modalities[modality])
        return self.cache[key]


def load_sample(
    source: Source, index: int, model: ModelConfig, rng: np.random.Generator | None, strength: float
) -> Sample:
    """A row with its media as arrays; ``rng`` None means no augmentation."""
    row = source.rows[index]
    # The short form has a column named after its modality, the long form a list of media in order of its parts.
    found: list[tuple[str, dict[str, Any]]] = [
        (name, row[name]) for name in model.modalities if row.get(name)
    ]
    if row.get("messages"):
        waiting = {name: iter(row.get(f"{name}s") or []) for name in model.modalities}
        kinds = [
            part["type"]
            for message in row["messages"]
            for part in message["content"]
            if part["type"] != "text"
        ]
        found = [(kind, next(waiting[kind])) for kind in kinds]
    media = []
    for ordinal, (kind, medium) in enumerate(found):
        clean = source.array(index, kind, ordinal, medium, model)
        seen = clean if rng is None else augment(clean, rng, strength)
        media.append(Medium(kind, clean, seen, model.modalities[kind].patch))
    return Sample(
        id=row["id"],
        source=row["source"],
        text=row.get("text") or "",
        concept=row.get("concept") or "",
        names=row.get("names") or {},
        media=media,
        messages=row.get("messages") or [],
    )


class Loader:
    """Batches by number.

    Args:
        config: sources, weights, shapes.
        model: configuration of the model (patches and sizes of media).
        tokenizer: of the run.
        seed: of the order, the templates and the augmentation.
    """

    def __init__(self, config: DataConfig, model: ModelConfig, tokenizer: Tokenizer, seed: int) -> None:
        self.config, self.model, self.tokenizer, self.seed = config, model, tokenizer, seed
        self.sources = [Source(source, read_rows(source.path, source.split)) for source in config.sources]
        for source in self.sources:
            if not source.rows:
                raise ValueError(f"source {source.config.path!r} has no row in split {source.config.split!r}")
        weights = np.array([source.weight for source in config.sources], dtype=np.float64)
        self.share = weights / weights.sum()
        self.bad: Counter[str] = Counter()
        self.num_visits = 0

    def visits(self, step: int) -> list[tuple[int, int]]:
        """(source, visit) of every sample of a step: cumulative quotas, so shares are exact over time."""
        # The phase spreads sources of equal share over different steps.
        phase = np.linspace(0, 1, len(self.share), endpoint=False)
        first = np.floor(step * self.config.samples_per_step * self.share + phase).astype(np.int64)
        last = np.floor((step + 1) * self.config.samples_per_step * self.share + phase).astype(np.int64)
        return [(s, visit) for s in range(len(self.share)) for visit in range(int(first[s]), int(last[s]))]

    def documents(self, step: int) -> list[Document]:
        """The documents of a step, before packing; bad samples are counted, logged and left out."""
        out: list[Document] = []
        for number, visit in self.visits(step):
            source = self.sources[number]
            self.num_visits += 1
            index = source.index_of(visit, self.seed)
            rng = np.random.default_rng([self.seed, number, visit])
            template = source.config.templates[int(rng.integers(len(source.config.templates)))]
            try:
                sample = load_sample(
                    source, index, self.model, rng, self.config.augment * source.config.augment
                )
                out += build_documents(
                    sample,
                    template,
                    self.tokenizer,
                    rng,
                    pair_key=f"{number}/{visit}",
                    condition_dropout=self.config.condition_dropout,
                    media_dropout=self.config.media_dropout,
                )
            except MediaError as error:
                self._count_bad(source.rows[index]["id"], str(error))
        return out

    def batch(self, step: int) -> Batch:
        """Batch number ``step``."""
        documents, layouts = [], []
        for document in self.documents(step):
            item = layout(document.segments, pad_id=self.tokenizer.pad, emb_id=self.tokenizer.emb)
            if len(item) > self.config.row_length:
                self._count_bad(document.sample_id, f"{len(item)} tokens, a row has {self.config.row_length}")
                continue
            documents.append(document)
            layouts.append(item)
        return pack_layouts(documents, layouts, self.model, row_length=self.config.row_length)

    def stream(self, start_step: int, stop_step: int) -> Iterator[tuple[int, Batch]]:
        """(step, batch) from ``start_step`` on; the next batches are made in a thread meanwhile."""
        ready: queue.Queue[tuple[int, Batch] | BaseException | None] = queue.Queue(maxsize=2)
        stopped = threading.Event()

        def offer(item: tuple[int, Batch] | BaseException | None) -> None:
            # Never wait for good: the consumer may leave with the queue full and then joins this thread.
            while not stopped.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for step in range(start_step, stop_step):
                    if stopped.is_set():
                        return
                    offer((step, self.batch(step)))
                offer(None)
            except BaseException as error:  # handed to the consumer, which raises it
                offer(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()

    def _count_bad(self, sample_id: str, reason: str) -> None:
        if sample_id not in self.bad:
            log.warning("sample %s left out: %s", sample_id, reason)
        self.bad[sample_id] += 1
        total = sum(self.bad.values())
        if total > 20 and total > MAX_BAD_RATE * self.num_visits:
            raise ValueError(
                f"{total} of {self.num_visits} samples could not be used, the last one {sample_id}: {reason}; "
                "mend the data, or raise row_length if the samples are too long"
            )


def _number(text: str) -> int:
    """A stable number of a name (``hash`` differs between processes)."""
    return int.from_bytes(hashlib.sha1(text.encode()).digest()[:4], "big")
