"""``sensorium data caption``: words for samples that have none."""

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
from sensorium.data.curation import Caption
from sensorium.data.engines import rewrite_shards

DESCRIPTION = f"""Write samples to new shards; media without a text get one by a model, and the metadata say so
(generated, caption_model). Everything else stays as it is. What does not decode is listed in rejected.jsonl.

{SHARDS}

Examples:
  sensorium data caption data/photos --out data/captioned --model runs/tiny
  sensorium data caption data/photos --out data/captioned --max-tokens 32 --json
"""


@dataclass(frozen=True, kw_only=True)
class CaptionArguments:
    """Arguments of ``sensorium data caption``."""

    shards: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SHARDS [SHARDS ...]", help_behavior_hint=""),
    ] = ()
    """Parquet files, folders of them, starter:NAME."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(required)")] = None
    """The folder of the new shards."""
    model: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = STARTER
    """The model that writes the texts."""
    max_tokens: int = 64
    """Length of a text in tokens, at most."""
    engine: str = "local"
    """local or ray."""
    workers: int = 2
    """Processes of --engine ray."""
    shard_mb: int = 256
    """Size of a file of the output in MiB."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Caption and tell how many samples got a text."""
    chosen, _ = parse(CaptionArguments, arguments, verb="data caption", description=DESCRIPTION)
    if chosen.out is None:
        raise ValueError("--out FOLDER is missing; see `sensorium data caption --help`")
    if chosen.max_tokens < 1:
        raise ValueError(f"--max-tokens {chosen.max_tokens}: give at least 1")
    check_engine(chosen.engine, chosen.workers, chosen.shard_mb)
    paths = shard_paths(chosen.shards)
    model = ModelByName.of(chosen.model)
    out = chosen.out.expanduser()
    with bars() as progress:
        counts = rewrite_shards(
            paths,
            out,
            Caption(model, Path(model.name).name, chosen.max_tokens),
            engine=chosen.engine,
            num_workers=chosen.workers,
            shard_bytes=chosen.shard_mb * MIB,
            progress=progress,
        )
    tell(counts, out, chosen.json)
    if not chosen.json:
        print(f"{counts['captioned']:,} texts are new")
    return 0
