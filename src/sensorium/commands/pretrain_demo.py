"""``sensorium pretrain-demo``: see ``sensorium.pretrain_demo``."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sensorium.commands.arguments import parse

DESCRIPTION = """Train a small model from nothing on the real data that ships with the package, test it before and after,
and write a report with pictures, sounds and loss curves. Takes about five minutes on two CPU cores.

Examples:
  sensorium pretrain-demo
  sensorium pretrain-demo --out runs/demo --overwrite
"""


@dataclass(frozen=True, kw_only=True)
class PretrainDemo:
    """Arguments of ``sensorium pretrain-demo``."""

    out: Path = Path("pretrain-demo")
    """Folder of the report (report.html, report.json) and the model (model/)."""
    overwrite: bool = False
    """Replace an earlier demo in that folder."""
    recipe: str = "nano"
    """What to train; `sensorium train --help` lists the recipes."""
    max_train_s: Annotated[float, tyro.conf.arg(help_behavior_hint="(default: the recipe's)")] = 0.0
    """Seconds of training at most; 0 means no limit."""


def main(arguments: Sequence[str]) -> int:
    """Run the demo."""
    chosen, given = parse(PretrainDemo, arguments, verb="pretrain-demo", description=DESCRIPTION)
    from sensorium import recipes

    config = recipes.get(chosen.recipe)
    if "max_train_s" in given:
        config = dataclasses.replace(
            config, train=dataclasses.replace(config.train, max_train_s=chosen.max_train_s)
        )
    from sensorium.pretrain_demo import run

    run(chosen.out, config, overwrite=chosen.overwrite)
    return 0
