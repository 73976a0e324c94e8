"""``sensorium data export``: shards as WebDataset tars, or as Parquet for the `datasets` library."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sensorium.commands.arguments import parse
from sensorium.commands.data.import_ import progress_bar
from sensorium.data.exporters import export_data
from sensorium.data.importers import Progress

DESCRIPTION = """Write samples for other tools. Splits become files of their own. Interrupt it when you
like: finished files are kept, and the same command goes on. The same shards give the same bytes.

  webdataset  tars: the medium, .txt with the words, .json with everything else
  datasets    Parquet whose Image, Audio and Video columns load_dataset("parquet", data_dir=OUT) decodes

Examples:
  sensorium data export data/photos --to webdataset --out tars/
  sensorium data export data/photos --to datasets --out hub/
"""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Arguments of ``sensorium data export``."""

    shards: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS", help_behavior_hint="")
    ] = ()
    """The folder of shards."""
    to: Annotated[str, tyro.conf.arg(metavar="FORMAT", help_behavior_hint="(required)")] = ""
    """webdataset or datasets."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(required)")] = ""
    """Where the files go; a new or empty folder."""
    json: bool = False
    """Print one JSON object at the end."""


def main(arguments: Sequence[str]) -> int:
    """Export and say what was written."""
    chosen, _ = parse(Export, arguments, verb="data export", description=DESCRIPTION)
    if len(chosen.shards) != 1:
        raise ValueError(f"{len(chosen.shards)} inputs are given; give one folder of shards")
    for name in ("to", "out"):
        if not getattr(chosen, name):
            raise ValueError(f"--{name} is missing; see `sensorium data export --help`")
    shards, out = Path(chosen.shards[0]).expanduser(), Path(chosen.out).expanduser()
    with progress_bar(f"exporting {shards.name}") as show:
        try:
            done = export_data(
                shards, out, to=chosen.to, on_progress=lambda at, num_rows: show(Progress(at, num_rows, 0))
            )
        except KeyboardInterrupt:
            print(f"\ninterrupted; the same command goes on with {out}", file=sys.stderr)
            raise
    if chosen.json:
        print(json.dumps({"out": str(out), "to": chosen.to, **done}))
    else:
        print(f"{out}: {done['num_rows']:,} samples in {len(done['files'])} files")
    return 0
