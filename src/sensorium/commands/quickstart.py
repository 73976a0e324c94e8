"""``sensorium quickstart``: see ``sensorium.quickstart``."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sensorium.commands.arguments import parse

DESCRIPTION = """Train a small model on the real data that ships with the package, test it before and after,
and write a report with pictures, sounds and loss curves. Takes about five minutes on two CPU cores.

Examples:
  sensorium quickstart
  sensorium quickstart --out runs/quick --overwrite
"""


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Arguments of ``sensorium quickstart``."""

    out: Path = Path("quickstart")
    """Folder of the report (report.html, report.json) and the model (model/)."""
    overwrite: bool = False
    """Replace an earlier quick start in that folder."""
    recipe: str = "nano"
    """What to train; `sensorium train --help` lists the recipes."""
    max_train_s: Annotated[float, tyro.conf.arg(help_behavior_hint="(default: the recipe's)")] = 0.0
    """Seconds of training at most; 0 means no limit."""


def main(arguments: Sequence[str]) -> int:
    """Run the quick start."""
    chosen, given = parse(Quickstart, arguments, verb="quickstart", description=DESCRIPTION)
    from sensorium import recipes

    config = recipes.get(chosen.recipe)
    if "max_train_s" in given:
        config = dataclasses.replace(
            config, train=dataclasses.replace(config.train, max_train_s=chosen.max_train_s)
        )
    from sensorium.quickstart import run

    run(chosen.out, config, overwrite=chosen.overwrite)
    return 0
