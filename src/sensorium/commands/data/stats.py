"""``sensorium data stats``: what is in the data, and what an epoch of a recipe costs."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from sensorium import recipes
from sensorium.commands.arguments import parse
from sensorium.commands.data.inputs import PATHS, bar, shard_files
from sensorium.data.scan import Rows
from sensorium.data.splits import SPLITS
from sensorium.data.stats import collect

DESCRIPTION = f"""Count and measure: rows by source, split, language and licence; histograms of tokens, text, pixels,
seconds and bytes; tokens of an epoch by source and template, and how full its packed rows are.

{PATHS}

Examples:
  sensorium data stats data/photos
  sensorium data stats data/photos=pair,caption --recipe tiny
  sensorium data stats starter:noto starter:easy-vqa --json
"""
_BAR = 40
_NUM_VALUES = 12  # values of a column that are listed


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Arguments of ``sensorium data stats``."""

    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH [PATH ...]", help_behavior_hint="")
    ] = ()
    """Parquet files, folders of shards, starter:NAME."""
    recipe: str = "nano"
    """The recipe whose tokenizer, media sizes, row length and templates count."""
    split: str = "train"
    """The split whose rows make an epoch."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    chosen, _ = parse(Stats, arguments, verb="data stats", description=DESCRIPTION)
    if chosen.split not in SPLITS:
        raise ValueError(f"--split {chosen.split!r} is not one of {', '.join(SPLITS)}")
    config = recipes.get(chosen.recipe)
    rows = Rows(shard_files(chosen.paths, config))
    with bar("measuring", len(rows)) as advance:
        stats = collect(rows, config, split=chosen.split, on_row=advance)
    if rows.file_problems:
        file, reason = rows.file_problems[0]
        raise ValueError(f"{file.path}: {reason}; `sensorium data check` tells all that is wrong")
    values = stats.as_dict()
    if chosen.json:
        print(json.dumps(values, ensure_ascii=False))
    else:
        print("\n".join(_lines(values)))
    return 0


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    yield f"{values['num_rows']:,} samples in {values['num_files']:,} files"
    for column, counts in values["counts"].items():
        yield f"\n{column}"
        yield from _bars(dict(list(counts.items())[:_NUM_VALUES]))
        if len(counts) > _NUM_VALUES:
            yield f"  ... and {len(counts) - _NUM_VALUES:,} more"
    for name, about in values["histograms"].items():
        of_split = f" of split {values['epoch']['split']}" if name == "document_tokens" else ""
        yield (
            f"\n{name.replace('_', ' ')}{of_split} ({about['unit']}): {about['count']:,} values, median {about['median']:,g}, "
            f"mean {about['mean']:,.5g}, 95% up to {about['p95']:,g}, largest {about['max']:,g}"
        )
        edges = about["edges"]
        labels = [
            f"{low:,.6g} to {high:,.6g}" if high is not None else f"{low:,.6g} and more"
            for low, high in itertools.pairwise(edges)
        ]
        filled = [index for index, count in enumerate(about["counts"]) if count]
        shown = slice(filled[0], filled[-1] + 1)
        yield from _bars(dict(zip(labels[shown], about["counts"][shown], strict=True)))
    if values["image_sizes"]:
        sizes = list(values["image_sizes"].items())[:5]
        yield "\nmost common picture sizes: " + ", ".join(f"{size} ({count:,})" for size, count in sizes)
    yield from _epoch(values["epoch"], values["recipe"])


def _epoch(epoch: Mapping[str, Any], recipe: str) -> Iterator[str]:
    yield f"\none epoch of split {epoch['split']} with the recipe {recipe}"
    for entry in epoch["templates"]:
        each = entry["tokens"] / entry["rows"]
        yield (
            f"  {entry['source']:<16} {entry['template']:<12} {entry['share']:>4.0%} of visits, "
            f"{entry['rows']:>7,} rows, {each:>7.1f} tokens a row"
        )
    for source, tokens in epoch["tokens"].items():
        yield f"  {source:<16} {tokens:>12,} tokens"
    for entry in epoch["left_out"]:
        yield f"  left out: {entry['rows']:,} rows of {entry['source']} ({entry['reason']})"
    packed = epoch["packed"]
    yield (
        f"  together: {epoch['total_tokens']:,} tokens of {packed['samples']:,} samples in {packed['steps']:,} steps; "
        f"packed into {packed['rows']:,} rows of {packed['row_length']:,} positions, {packed['used']:.1%} of them used"
    )


def _bars(counts: Mapping[str, int]) -> Iterator[str]:
    largest = max(counts.values(), default=0)
    names = {name: "".join(c if c.isprintable() else " " for c in name)[:40] for name in counts}
    width = max(map(len, names.values()), default=0)
    for name, count in counts.items():
        yield f"  {names[name]:>{width}} {'█' * round(_BAR * count / largest) if largest else ''} {count:,}"
