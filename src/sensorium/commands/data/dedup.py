"""``sensorium data dedup``: shards without duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
from sensorium.data.duplicates import COMPARED, MAX_DISTANCE, Signatures, find_duplicates
from sensorium.data.engines import rewrite_shards

DESCRIPTION = f"""Write samples to new shards, of duplicates only the first. What training shares with validation or
test leaves training; what validation shares with test leaves validation. What is left out is listed with its reason
in rejected.jsonl. Give one or more of --exact, --near and --embedding; --exact is meant without any.

{SHARDS}

Examples:
  sensorium data dedup data/photos --out data/unique
  sensorium data dedup data/photos --out data/unique --exact --near --compare media
  sensorium data dedup data/train data/test --out data/apart --embedding 0.97 --model runs/tiny
"""


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """Arguments of ``sensorium data dedup``."""

    shards: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="SHARDS [SHARDS ...]", help_behavior_hint=""),
    ] = ()
    """Parquet files, folders of them, starter:NAME."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(required)")] = None
    """The folder of the new shards."""
    exact: bool = False
    """The same bytes of media and the same text."""
    near: bool = False
    """Pictures that look alike (perceptual hash and colours), texts that read alike (MinHash); sounds and videos by
    their bytes. Needs pip install 'sensorium[curate]'"""
    embedding: Annotated[float | None, tyro.conf.arg(metavar="COSINE", help_behavior_hint="")] = None
    """Media and texts whose vectors have at least this cosine."""
    model: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = STARTER
    """The model that makes the vectors."""
    compare: str = "all"
    """What of two samples must be alike: all, media or text."""
    distance: int = 4
    """Bits of 64 in which the hashes of pictures that look alike may differ, 0 to 8."""
    similarity: float = 0.8
    """Share of common pieces (Jaccard) of texts that read alike."""
    engine: str = "local"
    """local or ray."""
    workers: int = 2
    """Processes of --engine ray."""
    shard_mb: int = 256
    """Size of a file of the output in MiB."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Find duplicates, write the rest, and tell how many there were."""
    chosen, given = parse(Dedup, arguments, verb="data dedup", description=DESCRIPTION)
    if chosen.out is None:
        raise ValueError("--out FOLDER is missing; see `sensorium data dedup --help`")
    _check(chosen, given)
    paths = shard_paths(chosen.shards)
    settings: dict[str, float] = {}
    if chosen.near:
        settings = {"distance": chosen.distance, "similarity": chosen.similarity}
    if chosen.embedding is not None:
        settings["cosine"] = chosen.embedding
    job = Signatures(
        exact=chosen.exact or not (chosen.near or chosen.embedding is not None),
        near=chosen.near,
        model=ModelByName.of(chosen.model) if chosen.embedding is not None else None,
        compare=chosen.compare,
        settings=tuple(settings.items()),
    )
    out = chosen.out.expanduser()
    with bars() as progress:
        counts = rewrite_shards(
            paths,
            out,
            job,
            decide=partial(
                find_duplicates,
                distance=chosen.distance,
                similarity=chosen.similarity,
                cosine=chosen.embedding,
            ),
            engine=chosen.engine,
            num_workers=chosen.workers,
            shard_bytes=chosen.shard_mb * MIB,
            progress=progress,
        )
    tell(counts, out, chosen.json)
    return 0


def _check(chosen: Dedup, given: set[str]) -> None:
    check_engine(chosen.engine, chosen.workers, chosen.shard_mb)
    if chosen.compare not in COMPARED:
        raise ValueError(f"--compare {chosen.compare}: unknown; known are {', '.join(COMPARED)}")
    if not 0 <= chosen.distance <= MAX_DISTANCE:
        raise ValueError(f"--distance {chosen.distance}: give 0 to {MAX_DISTANCE} bits")
    if not 0 < chosen.similarity <= 1:
        raise ValueError(f"--similarity {chosen.similarity:g}: give a share over 0 and up to 1")
    if chosen.embedding is not None and not 0 < chosen.embedding <= 1:
        raise ValueError(f"--embedding {chosen.embedding:g}: give a cosine over 0 and up to 1")
    needs = {"distance": chosen.near, "similarity": chosen.near, "model": chosen.embedding is not None}
    for option, used in needs.items():
        if option in given and not used:
            belongs = "--embedding COSINE" if option == "model" else "--near"
            raise ValueError(f"--{option} belongs to {belongs}; give that too, or leave --{option} out")
