"""``sensorium data check``: what would not train, or would train the wrong thing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sensorium import recipes
from sensorium.commands.arguments import parse
from sensorium.commands.data.inputs import PATHS, bar, shard_files
from sensorium.data.check import check
from sensorium.data.check_media import Budgets
from sensorium.data.check_report import write_report
from sensorium.data.findings import KINDS, CheckResult
from sensorium.data.fingerprints import MAX_NEAR_DISTANCE
from sensorium.data.scan import Rows

DESCRIPTION = f"""Look at every sample: does it keep the schema, does every medium decode, is it in the data twice, does
it leak from training into test, does it fit the recipe? Exits with 1 if there is an error; warnings and notes
are for you to judge. Near duplicates and languages need: pip install 'sensorium[curate]'

{PATHS}
More than one path: they are checked together, so that what leaks from one into another is found.

Examples:
  sensorium data check data/photos --report report.html
  sensorium data check data/train data/test --recipe tiny --json
  sensorium data check starter:noto starter:openmoji --near-distance 2
"""
_NUM_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Check:
    """Arguments of ``sensorium data check``."""

    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH [PATH ...]", help_behavior_hint="")
    ] = ()
    """Parquet files, folders of shards, starter:NAME."""
    recipe: str = "nano"
    """The recipe whose tokenizer, media sizes and row length samples must fit."""
    report: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE.html", help_behavior_hint="(default: none)")
    ] = None
    """Write a page with all findings, a sample of the media, and the worst offenders."""
    near_distance: int = 3
    """Bits of 64 in which the perceptual hashes of pictures that look alike may differ, 0 to 7; -1 does not look."""
    max_pixels: int = Budgets.max_pixels
    """Height times width of a picture, before it is a warning."""
    max_seconds: float = Budgets.max_duration_s
    """Length of a sound or a video, before it is a warning."""
    max_bytes: int = Budgets.max_bytes
    """Size of an encoded medium, before it is a warning."""
    max_aspect: float = Budgets.max_aspect
    """Longer side over shorter side of a picture, before it is a warning."""
    json: bool = False
    """Print one JSON object with all findings."""


def main(arguments: Sequence[str]) -> int:
    """Check, tell, and write the report."""
    chosen, _ = parse(Check, arguments, verb="data check", description=DESCRIPTION)
    if not -1 <= chosen.near_distance <= MAX_NEAR_DISTANCE:
        raise ValueError(
            f"--near-distance {chosen.near_distance}: give 0 to {MAX_NEAR_DISTANCE} bits, or -1 not to look"
        )
    report = chosen.report.expanduser() if chosen.report else None
    if report and not report.parent.is_dir():
        raise FileNotFoundError(f"{report.parent}: no such folder to save {report.name} in; make it first")
    config = recipes.get(chosen.recipe)
    rows = Rows(shard_files(chosen.paths, config))
    budgets = Budgets(
        max_pixels=chosen.max_pixels,
        max_duration_s=chosen.max_seconds,
        max_bytes=chosen.max_bytes,
        max_aspect=chosen.max_aspect,
    )
    with bar("checking", len(rows)) as advance:
        result = check(rows, config, budgets=budgets, near_distance=chosen.near_distance, on_row=advance)
    if report:
        write_report(report, result, chosen.paths, chosen.recipe)
    if chosen.json:
        print(json.dumps(summary(result) | ({"report": str(report)} if report else {}), ensure_ascii=False))
    else:
        _show(result)
        if report:
            print(f"report: {report}")
    return 1 if result.num("error") else 0


def summary(result: CheckResult) -> dict[str, object]:
    """Counts and findings, as JSON has them."""
    return {
        "ok": not result.num("error"),
        "num_rows": result.num_rows,
        "num_files": len(result.rows.files),
        "num_media": dict(result.num_media),
        "num_errors": result.num("error"),
        "num_warnings": result.num("warning"),
        "num_notes": result.num("note"),
        "counts": {kind: result.counts[kind] for kind in result.kinds()},
        "skipped": result.skipped,
        "findings": [finding.as_dict() for kind in result.kinds() for finding in result.findings[kind]],
    }


def _show(result: CheckResult) -> None:
    print(f"{result.num_rows:,} samples in {len(result.rows.files):,} files: {result.media}")
    for skipped in result.skipped:
        print(f"not looked for: {skipped}")
    for kind in result.kinds():
        about = KINDS[kind]
        print(f"\n{about.severity:<8}{result.counts[kind]:>7,}  {about.meaning}")
        for finding in result.findings[kind][:_NUM_SHOWN]:
            print(f"{'':17}{finding.name}: {_one_line(finding.reason)}")
        if result.counts[kind] > _NUM_SHOWN:
            print(f"{'':17}... and {result.counts[kind] - _NUM_SHOWN:,} more")
        print(f"{'':17}to do: {about.mend}")
    ending = "no errors" if not result.num("error") else f"{result.num('error'):,} errors"
    print(f"\n{ending}, {result.num('warning'):,} warnings, {result.num('note'):,} notes")


def _one_line(text: str) -> str:
    """Without control characters: what stands in data must not move the cursor."""
    text = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return text if len(text) <= 200 else text[:197] + "..."
