"""``sensorium quickstart``: see ``sensorium.quickstart``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sensorium.commands.arguments import parse

DESCRIPTION = """Show what the model that ships with the package makes of real pictures, sounds and questions, then adapt it to 20
pictures of things that it has never seen, and test it on others before and after. Takes about three minutes on two CPU
cores. `sensorium pretrain-demo` trains a model from nothing instead.

Examples:
  sensorium quickstart
  sensorium quickstart --out runs/quick --overwrite
  sensorium quickstart --model runs/tiny
"""


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Arguments of ``sensorium quickstart``."""

    out: Path = Path("quickstart")
    """Folder of the report (report.html, report.json) and the adapted model (model/)."""
    model: str = "starter"
    """A model or run folder, or starter for what ships with the package."""
    overwrite: bool = False
    """Replace an earlier quick start in that folder."""


def main(arguments: Sequence[str]) -> int:
    """Run the quick start."""
    chosen, _ = parse(Quickstart, arguments, verb="quickstart", description=DESCRIPTION)
    from sensorium.quickstart import run

    run(chosen.out, chosen.model, overwrite=chosen.overwrite)
    return 0
