"""What a run is mixed from: its sources, their shares, and which visits of which source a step consumes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sensorium.config import DataConfig, SourceConfig, Template
from sensorium.data.order import BlockShuffle
from sensorium.data.reader import Reader
from sensorium.data.templates import find_template


@dataclass
class Source:
    """One source of the mixture: its rows by number, its order, its templates."""

    config: SourceConfig
    reader: Reader
    order: BlockShuffle
    templates: list[tuple[str, Template]]
    cumulative: np.ndarray  # weights of the templates, summed up to 1

    def draw_template(self, rng: np.random.Generator) -> tuple[str, Template]:
        """One template, by weight."""
        return self.templates[int(np.searchsorted(self.cumulative, rng.random(), side="right"))]


@dataclass(frozen=True)
class Stage:
    """A mixture, from a step on.

    Args:
        first_step: where it takes over.
        numbers: its sources, as places in ``Loader.sources``. share: of each, adding up to 1.
    """

    first_step: int
    numbers: range
    share: np.ndarray

    def visits(self, step: int, samples_per_step: int) -> list[tuple[int, int]]:
        """(source, visit) of every sample of a step: cumulative quotas, so shares are exact over time."""
        # The phase spreads sources of equal share over different steps.
        phase = np.linspace(0, 1, len(self.share), endpoint=False)
        quota = samples_per_step * self.share
        done = step - self.first_step
        first = np.floor(done * quota + phase).astype(np.int64)
        last = np.floor((done + 1) * quota + phase).astype(np.int64)
        spans = zip(self.numbers, first.tolist(), last.tolist(), strict=True)
        return [(number, visit) for number, start, stop in spans for visit in range(start, stop)]


def open_mixture(config: DataConfig, seed: int) -> tuple[list[Source], list[Stage]]:
    """All sources of a run, and the stages that draw from them.

    Raises:
        ValueError: a source has no row, a template is unknown, or the weights are not positive.
    """
    sources: list[Source] = []
    stages: list[Stage] = []
    for first_step, members in ((0, config.sources), (config.clean_from, config.clean_sources)):
        if members or not stages:
            share = _shares([source.weight for source in members], "the weights of the sources")
            stages.append(Stage(first_step, range(len(sources), len(sources) + len(members)), share))
            sources += [_open(source, config, seed) for source in members]
    return sources, stages


def _open(source: SourceConfig, config: DataConfig, seed: int) -> Source:
    reader = Reader(source.path, source.split, max_blocks=config.shuffle_blocks + 2)
    if not reader.num_rows:
        raise ValueError(f"source {source.path!r} has no row in split {source.split!r}")
    share = _shares(list(source.templates.values()), f"source {source.path!r}: the weights of its templates")
    templates = [(name, find_template(name, config.templates)) for name in source.templates]
    cumulative = np.cumsum(share)
    cumulative[-1] = 1.0
    order = BlockShuffle(
        reader.block_sizes,
        seed=(seed, _number(source.order_key or source.path)),
        window=config.shuffle_blocks,
    )
    return Source(source, reader, order, templates, cumulative)


def _shares(weights: Sequence[float], what: str) -> np.ndarray:
    """Weights divided by their sum."""
    values = np.array(weights, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or (values < 0).any() or not values.sum() > 0:
        raise ValueError(f"{what} are {values.tolist()}; expected none below 0 and at least one above")
    return values / values.sum()


def _number(text: str) -> int:
    """A stable number of a name (``hash`` differs between processes)."""
    return int.from_bytes(hashlib.sha1(text.encode()).digest()[:4], "big")
