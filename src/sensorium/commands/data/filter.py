"""``sensorium data filter``: shards without what is not wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.data.curating import (
    MIB,
    SHARDS,
    ModelByName,
    bars,
    check_engine,
    shard_paths,
    tell,
)
from sensorium.commands.parts import STARTER
from sensorium.data.curation import Filter, Limits
from sensorium.data.engines import rewrite_shards

DESCRIPTION = f"""Write the samples that keep to limits to new shards. What is left out is listed with its reason in
rejected.jsonl, also what does not decode where a limit is on media.

{SHARDS}

Examples:
  sensorium data filter data/photos --out data/large --min-side 256 --max-aspect 3
  sensorium data filter data/photos --out data/english --language en --min-chars 8
  sensorium data filter starter:noto --out data/aligned --min-alignment 0.3 --model starter
"""
NONE = tyro.conf.arg(metavar="N", help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class FilterArguments:
    """Arguments of ``sensorium data filter``."""

    shards: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SHARDS [SHARDS ...]", help_behavior_hint=""),
    ] = ()
    """Parquet files, folders of them, starter:NAME."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(required)")] = None
    """The folder of the new shards."""
    min_pixels: Annotated[int | None, NONE] = None
    """Height times width of every picture, at least."""
    max_pixels: Annotated[int | None, NONE] = None
    """Height times width of every picture, at most."""
    min_side: Annotated[int | None, NONE] = None
    """The shorter side of every picture, at least."""
    max_aspect: Annotated[float | None, NONE] = None
    """The longer over the shorter side of every picture and video, at most."""
    min_seconds: Annotated[float | None, NONE] = None
    """Length of every sound and video, at least."""
    max_seconds: Annotated[float | None, NONE] = None
    """Length of every sound and video, at most."""
    min_chars: Annotated[int | None, NONE] = None
    """Letters of the text, at least; of a conversation, of all its texts."""
    max_chars: Annotated[int | None, NONE] = None
    """Letters of the text, at most."""
    language: Annotated[str, tyro.conf.arg(metavar="en[,de...]", help_behavior_hint="")] = ""
    """The languages to keep. Where a sample does not state its own, it is detected (extra curate)."""
    min_alignment: Annotated[float | None, NONE] = None
    """Cosine of every medium with the text, at least; samples that lack one of them are kept."""
    model: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = STARTER
    """The model that scores the alignment."""
    engine: str = "local"
    """local or ray."""
    workers: int = 2
    """Processes of --engine ray."""
    shard_mb: int = 256
    """Size of a file of the output in MiB."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Filter and tell how many were left out for what."""
    chosen, given = parse(FilterArguments, arguments, verb="data filter", description=DESCRIPTION)
    if chosen.out is None:
        raise ValueError("--out FOLDER is missing; see `sensorium data filter --help`")
    limits = _limits(chosen)
    if limits == Limits():
        raise ValueError(
            "no limit is given, so nothing would be left out; see `sensorium data filter --help`"
        )
    if "model" in given and limits.min_alignment is None:
        raise ValueError("--model scores the alignment; give --min-alignment too, or leave --model out")
    check_engine(chosen.engine, chosen.workers, chosen.shard_mb)
    paths = shard_paths(chosen.shards)
    model = ModelByName.of(chosen.model) if limits.min_alignment is not None else None
    out = chosen.out.expanduser()
    with bars() as progress:
        counts = rewrite_shards(
            paths,
            out,
            Filter(limits, model),
            engine=chosen.engine,
            num_workers=chosen.workers,
            shard_bytes=chosen.shard_mb * MIB,
            progress=progress,
        )
    tell(counts, out, chosen.json)
    return 0


def _limits(chosen: FilterArguments) -> Limits:
    languages = tuple(code.strip().lower() for code in chosen.language.split(",") if code.strip())
    return Limits(
        min_pixels=chosen.min_pixels,
        max_pixels=chosen.max_pixels,
        min_side=chosen.min_side,
        max_aspect=chosen.max_aspect,
        min_seconds=chosen.min_seconds,
        max_seconds=chosen.max_seconds,
        min_chars=chosen.min_chars,
        max_chars=chosen.max_chars,
        languages=languages,
        min_alignment=chosen.min_alignment,
    )
