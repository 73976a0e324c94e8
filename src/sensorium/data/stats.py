"""What is in the data: counts, histograms, and what an epoch of a recipe costs."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sensorium.config import RunConfig
from sensorium.data.check_media import Budgets, MediumFacts, examine
from sensorium.data.sample import OverBudgetError
from sensorium.data.scan import Rows, documents_of_row, fitting_templates, media_of_row, text_of_row
from sensorium.sequence.document import layout
from sensorium.sequence.tokenizer import Tokenizer

COLUMNS = ("source", "split", "language", "license")
# What is measured: name -> unit. Bins are powers of two but for these.
MEASURES = {
    "document_tokens": "tokens",
    "text_length": "characters",
    "image_pixels": "pixels",
    "image_aspect": "width over height",
    "audio_duration": "seconds",
    "video_duration": "seconds",
    "medium_bytes": "bytes",
}
_ASPECT_EDGES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.05, 4 / 3, 2.0, 4.0, np.inf)


@dataclass
class Stats:
    """Counts and measures of some rows.

    Args:
        counts: column -> value -> rows.
        values: measure -> all values; four bytes each.
        sizes: "width x height" of pictures -> how many.
        tokens: (source, template) -> documents and tokens of all rows of the split that an epoch takes, if every
            row met this template.
        shares: (source, template) -> visits of an epoch that draw it, on average.
        left_out: (source, reason) -> rows of the epoch's split that give no documents.
    """

    recipe: str
    split: str
    num_rows: int = 0
    num_files: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in COLUMNS})
    values: dict[str, array[float]] = field(default_factory=lambda: {name: array("f") for name in MEASURES})
    sizes: Counter[str] = field(default_factory=Counter)
    documents: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    visited: Counter[tuple[str, str]] = field(default_factory=Counter)
    shares: dict[tuple[str, str], float] = field(default_factory=dict)
    epoch_tokens: dict[str, float] = field(default_factory=dict)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    packed: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "recipe": self.recipe,
            "num_rows": self.num_rows,
            "num_files": self.num_files,
            "counts": {name: dict(counter.most_common()) for name, counter in self.counts.items()},
            "histograms": {
                name: {"unit": MEASURES[name], **histogram(name, values)}
                for name, values in self.values.items()
                if values
            },
            "image_sizes": dict(self.sizes.most_common(20)),
            "epoch": {
                "split": self.split,
                "templates": [
                    {
                        "source": source,
                        "template": template,
                        "rows": self.visited[source, template],
                        "share": round(self.shares[source, template], 4),
                        "documents": self.documents[source, template],
                        "tokens": self.tokens[source, template],
                    }
                    for source, template in sorted(self.visited)
                ],
                "tokens": {source: round(tokens) for source, tokens in sorted(self.epoch_tokens.items())},
                "total_tokens": round(sum(self.epoch_tokens.values())),
                "left_out": [
                    {"source": source, "reason": reason, "rows": count}
                    for (source, reason), count in sorted(self.left_out.items())
                ],
                "packed": self.packed,
            },
        }


def collect(
    rows: Rows, config: RunConfig, *, split: str = "train", on_row: Callable[[], None] = lambda: None
) -> Stats:
    """Measure every row.

    Args:
        rows: of all files.
        config: the recipe: tokenizer, media sizes, row length, samples in a step.
        split: the epoch's rows.
        on_row: called after every row, for a progress bar.
    """
    stats = Stats(config.name, split, num_files=len(rows.files))
    tokenizer = Tokenizer.load(config.tokenizer)
    rng = np.random.default_rng(0)
    # Lengths of the documents of the template that was drawn, and how many documents each row has.
    lengths, per_row = array("I"), array("I")
    for number, row, problems in rows:
        stats.num_rows += 1
        for name in COLUMNS:
            value = row.get(name)
            stats.counts[name][value if isinstance(value, str) and value else "(none)"] += 1
        facts = _measure(row, stats)
        if row.get("split") == split:
            templates = fitting_templates(row, rows.locate(number)[0].templates)
            found: dict[str, list[int]] = {}
            if problems or facts is None:
                stats.left_out[str(row.get("source")), "cannot be read"] += 1
            else:
                found = _lengths(row, templates, facts, config, tokenizer, stats)
            if found:
                chosen = _draw(templates, rng)
                lengths.extend(found[chosen])
                per_row.append(len(found[chosen]))
        on_row()
    stats.packed = pack_epoch(lengths, per_row, config.data.row_length, config.data.samples_per_step)
    return stats


def _measure(row: Mapping[str, Any], stats: Stats) -> list[MediumFacts] | None:
    """Facts of all media, or None when one does not decode."""
    try:
        media, text = media_of_row(row), text_of_row(row)
    except (TypeError, AttributeError):
        return None
    if text:
        stats.values["text_length"].append(len(text))
    facts: list[MediumFacts] = []
    for kind, medium in media:
        try:
            fact = examine(kind, medium, Budgets())
        except ValueError:
            continue
        facts.append(fact)
        stats.values["medium_bytes"].append(fact.num_bytes)
        if kind == "image":
            stats.values["image_pixels"].append(fact.height * fact.width)
            stats.values["image_aspect"].append(fact.width / fact.height)
            stats.sizes[f"{fact.width} x {fact.height}"] += 1
        else:
            stats.values[f"{kind}_duration"].append(fact.duration_s)
    return facts if len(facts) == len(media) else None


def _lengths(
    row: Mapping[str, Any],
    templates: Mapping[str, float],
    facts: Sequence[MediumFacts],
    config: RunConfig,
    tokenizer: Tokenizer,
    stats: Stats,
) -> dict[str, list[int]]:
    """Tokens of each document under each template; none where the loader would leave the row out."""
    source = str(row.get("source"))
    decoded = {id(fact.medium): fact.plain for fact in facts if fact.kind != "video"}
    found: dict[str, list[int]] = {}
    try:
        for name in templates:
            documents = documents_of_row(
                row, name, config, tokenizer, np.random.default_rng(0), decoded=decoded
            )
            found[name] = [
                len(layout(d.segments, pad_id=tokenizer.pad, emb_id=tokenizer.emb)) for d in documents
            ]
            stats.values["document_tokens"].extend(found[name])
    except OverBudgetError:
        stats.left_out[source, "too long for the recipe"] += 1
        return {}
    except ValueError:
        stats.left_out[source, "gives no document"] += 1
        return {}
    if not found:
        stats.left_out[source, "no template fits"] += 1
        return {}
    if max(max(lengths, default=0) for lengths in found.values()) > config.data.row_length:
        stats.left_out[source, "longer than a row"] += 1
        return {}
    total = sum(templates.values())
    for name, lengths in found.items():
        key, share = (source, name), templates[name] / total
        stats.visited[key] += 1
        stats.shares[key] = share
        stats.documents[key] += len(lengths)
        stats.tokens[key] += sum(lengths)
        stats.epoch_tokens[source] = stats.epoch_tokens.get(source, 0.0) + share * sum(lengths)
    return found


def _draw(templates: Mapping[str, float], rng: np.random.Generator) -> str:
    names = list(templates)
    weights = np.array([templates[name] for name in names], np.float64)
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def pack_epoch(
    lengths: Sequence[int], per_row: Sequence[int], row_length: int, samples_per_step: int
) -> dict[str, Any]:
    """Pack the documents of all rows once, in a random order, some samples at a time, as training does.

    Args:
        lengths: tokens of each document, row after row.
        per_row: documents of each row.

    Returns:
        steps, packed rows and the share of their positions that hold a token; without documents, zeros.
    """
    from sensorium.sequence.packing import assign_rows

    ends = np.cumsum(np.asarray(per_row, np.int64))
    order = np.random.default_rng(0).permutation(len(ends))
    num_packed, num_steps = 0, 0
    for start in range(0, len(order), samples_per_step):
        rows = order[start : start + samples_per_step]
        documents = [lengths[i] for row in rows for i in range(ends[row] - per_row[row], ends[row])]
        num_packed += len(assign_rows(documents, row_length))
        num_steps += 1
    num_tokens = int(sum(lengths))
    return {
        "samples": len(order),
        "steps": num_steps,
        "row_length": row_length,
        "rows": num_packed,
        "tokens": num_tokens,
        "used": round(num_tokens / (num_packed * row_length), 4) if num_packed else 0.0,
    }


def histogram(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Count, extremes, mean, median, 95th percentile; and bins with ``edges[i] <= value < edges[i + 1]``."""
    numbers = np.asarray(values, np.float64)
    if name == "image_aspect":
        edges = np.array(_ASPECT_EDGES)
    else:
        # Powers of two from the one below the smallest value to the one above the largest.
        low, high = np.log2(max(numbers.min(), 2**-6)), np.log2(max(numbers.max(), 2**-6))
        edges = 2.0 ** np.arange(np.floor(low), np.floor(high) + 2)
        edges[0] = min(edges[0], numbers.min())
    counts = np.histogram(numbers, np.where(np.isinf(edges), np.finfo(np.float64).max, edges))[0]
    return {
        "count": int(numbers.size),
        "min": _short(numbers.min()),
        "median": _short(np.median(numbers)),
        "mean": _short(numbers.mean()),
        "p95": _short(np.quantile(numbers, 0.95)),
        "max": _short(numbers.max()),
        "edges": [None if np.isinf(edge) else _short(edge) for edge in edges],
        "counts": counts.tolist(),
    }


def _short(value: float) -> float:
    """Six figures: the values were kept as float32."""
    return float(f"{value:.6g}")
