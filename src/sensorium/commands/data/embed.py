"""``sensorium data embed``: vectors of all samples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.data.curating import SHARDS, ModelByName, bars, check_engine, shard_paths
from sensorium.commands.parts import STARTER
from sensorium.data.vectors import MAX_EMBEDDED_CHARS, Embed, embed_shards

DESCRIPTION = f"""Write a vector for every medium and every text of some shards: Parquet with the columns id, kind (image,
audio, video, text) and vector (float32), in the order of the samples. The vectors are unit vectors of one space. The
middle frame stands for a video, the first {MAX_EMBEDDED_CHARS:,} letters for a text.

{SHARDS}

Examples:
  sensorium data embed data/photos --out photos.parquet
  sensorium data embed starter:noto starter:scratch --out vectors/ --model starter
"""


@dataclass(frozen=True, kw_only=True)
class EmbedArguments:
    """Arguments of ``sensorium data embed``."""

    shards: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SHARDS [SHARDS ...]", help_behavior_hint=""),
    ] = ()
    """Parquet files, folders of them, starter:NAME."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE|FOLDER", help_behavior_hint="(required)")] = None
    """A file ending in .parquet, or a folder that gets files of about 100,000 vectors."""
    model: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = STARTER
    """The model that makes the vectors."""
    engine: str = "local"
    """local or ray."""
    workers: int = 2
    """Processes of --engine ray."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Embed and tell how many vectors there are."""
    chosen, _ = parse(EmbedArguments, arguments, verb="data embed", description=DESCRIPTION)
    if chosen.out is None:
        raise ValueError("--out FILE or FOLDER is missing; see `sensorium data embed --help`")
    check_engine(chosen.engine, chosen.workers)
    out = chosen.out.expanduser()
    paths = shard_paths(chosen.shards)
    with bars() as progress:
        counts = embed_shards(
            paths,
            out,
            Embed(ModelByName.of(chosen.model)),
            engine=chosen.engine,
            num_workers=chosen.workers,
            progress=progress,
        )
    if chosen.json:
        print(json.dumps({"out": str(out), **counts}, ensure_ascii=False))
        return 0
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts["vectors"].items()) or "none"
    print(f"{out}: vectors of {counts['rows']:,} samples: {kinds}")
    if counts["without"]:
        print(f"  {counts['without']:>8,} samples have none, {counts['damaged']:,} of them are damaged")
    for name, reason in counts["first_damaged"].items():
        print(f"  {name}: {reason}")
    return 0
