"""``sensorium runs``: the runs of a folder, and two of them side by side."""

import itertools
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sensorium.commands.arguments import parse
from sensorium.config import flatten

DESCRIPTION = """List the runs below a folder, or compare two: what differs in their configurations, their losses at
equal steps, and a plot.

A run counts as finished when its budget is used up, as stopped when it was interrupted or failed, and as running
while it keeps writing its metrics. Losses are means over the last steps before the one named.

Examples:
  sensorium runs
  sensorium runs runs/sweep --json
  sensorium runs runs/nano runs/nano-muon --out compare.png
"""
RESOLVED, METRICS, STOPPED = "resolved.json", "metrics.jsonl", "stopped"
MAX_DEPTH = 3  # folders below the one named in which a run is looked for
LAST_LINES = 20  # steps over which a loss is averaged
NUM_STEPS_SHOWN = 8
PATIENCE_S, PATIENCE_LINES = 120.0, 10  # a run that is alive writes within so many seconds, or usual gaps


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Arguments of ``sensorium runs``."""

    folders: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[FOLDER | RUN RUN]", help_behavior_hint=""),
    ] = ()
    """Where to look for runs ("runs" if left out), or two runs to compare."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Draw the losses of both runs into this picture."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """List or compare."""
    chosen, _ = parse(Runs, arguments, verb="runs", description=DESCRIPTION)
    if len(chosen.folders) > 2:
        raise ValueError(f"runs lists one folder or compares two runs; got {len(chosen.folders)} folders")
    if chosen.out and (len(chosen.folders) < 2 or chosen.out.suffix != ".png"):
        raise ValueError(f"--out {chosen.out} draws two runs into a picture: name both, and a .png")
    if len(chosen.folders) == 2:
        first, second = (Path(folder) for folder in chosen.folders)
        found = compare(first, second)
        if chosen.out:
            from sensorium.train.metrics import plot_runs, read_metrics

            plot_runs({str(run): read_metrics(run) for run in (first, second)}, chosen.out)
        print(json.dumps(found)) if chosen.json else _print_comparison(found, chosen.out)
        return 0
    folder = Path(chosen.folders[0] if chosen.folders else "runs")
    summaries = [summary(run) for run in find_runs(folder)]
    if not summaries:
        raise FileNotFoundError(
            f"{folder} holds no run (a folder with {RESOLVED}); give the folder in which runs were written with --out"
        )
    print(json.dumps({"runs": summaries})) if chosen.json else _print_list(summaries)
    return 0


def find_runs(folder: Path) -> list[Path]:
    """The folder itself, if it is a run, and those below it, the oldest first."""
    patterns = ("*/" * depth + RESOLVED for depth in range(MAX_DEPTH + 1))
    found = {path.parent for pattern in patterns for path in folder.glob(pattern)}
    return sorted(found, key=lambda run: ((run / RESOLVED).stat().st_mtime, str(run)))


def summary(run: Path) -> dict[str, Any]:
    """Recipe, step, losses, tokens, time and state of a run."""
    from sensorium.train.metrics import read_metrics

    config, lines = _config(run), read_metrics(run)
    last = lines[-1] if lines else {}
    train = config["train"]
    return {
        "run": str(run),
        "recipe": config["name"],
        "state": state_of(run, lines, train),
        "step": last.get("step", 0),
        "num_steps": train["num_steps"],
        "losses": mean_losses(lines[-LAST_LINES:]),
        "tokens_seen": last.get("tokens_seen", 0),
        "samples_seen": last.get("samples_seen", 0),
        "elapsed_s": last.get("elapsed_s", 0.0),
    }


def state_of(run: Path, lines: Sequence[dict[str, Any]], train: dict[str, Any]) -> str:
    """ "finished", "running" or "stopped"; "new" without a step."""
    last = lines[-1] if lines else {"step": 0, "elapsed_s": 0.0}
    budget_s = train["max_train_s"]
    if last["step"] >= train["num_steps"] or (budget_s and last.get("elapsed_s", 0.0) >= budget_s):
        return "finished"
    if (run / STOPPED).is_file():
        return "stopped"
    written = run / (METRICS if lines else RESOLVED)
    times = [line["elapsed_s"] for line in lines[-LAST_LINES:] if "elapsed_s" in line]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    patience_s = max(PATIENCE_S, PATIENCE_LINES * statistics.median(gaps) if gaps else 0.0)
    is_fresh = time.time() - written.stat().st_mtime < patience_s
    return "running" if is_fresh else ("stopped" if lines else "new")


def mean_losses(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean of every loss over some lines, those it stands in."""
    names = dict.fromkeys(key for line in lines for key in line if key.startswith(("loss", "val_loss")))
    values = {name: [line[name] for line in lines if line.get(name) is not None] for name in names}
    return {name: statistics.fmean(found) for name, found in values.items() if found}


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Differences of configurations, and metrics at equal steps.

    Raises:
        FileNotFoundError, ValueError: one is no run, or they have no step in common.
    """
    from sensorium.train.metrics import read_metrics

    runs = (first, second)
    flat = [flatten(_config(run)) for run in runs]
    differing = sorted(k for k in flat[0].keys() | flat[1].keys() if flat[0].get(k) != flat[1].get(k))
    lines = [{line["step"]: line for line in read_metrics(run)} for run in runs]
    common = sorted(lines[0].keys() & lines[1].keys())
    if not common:
        reached = " and ".join(f"{run} {max(own, default=0)}" for run, own in zip(runs, lines, strict=True))
        raise ValueError(f"the runs have no step in common (last steps: {reached}); train both first")
    num_shown = min(NUM_STEPS_SHOWN, len(common))
    shown = [common[(number + 1) * len(common) // num_shown - 1] for number in range(num_shown)]
    table = []
    for step in shown:
        before = [other for other in common if other <= step][-LAST_LINES:]
        means = [mean_losses([own[other] for other in before]) for own in lines]
        speeds = [
            statistics.median(own[o]["tokens_per_s"] for o in before if "tokens_per_s" in own[o])
            for own in lines
        ]
        values: dict[str, list[float]] = {
            name: [mean[name] for mean in means] for name in means[0] if name in means[1]
        }
        table.append({"step": step, **values, "tokens_per_s": speeds})
    return {
        "runs": [str(run) for run in runs],
        "configuration": {key: [own.get(key) for own in flat] for key in differing},
        "steps": table,
    }


def _config(run: Path) -> dict[str, Any]:
    path = run / RESOLVED
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} is no run: it holds no {RESOLVED}; `sensorium runs FOLDER` lists those there are"
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return config
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); copy the config.json of a checkpoint there"
        ) from error


def _print_list(summaries: list[dict[str, Any]]) -> None:
    head = ("run", "recipe", "state", "step", "tokens", "time")
    # A name that is cut or a column of losses that is stacked says nothing: losses get lines of their own.
    rows = [
        (
            item["run"],
            item["recipe"],
            item["state"],
            f"{item['step']:,}/{item['num_steps']:,}",
            f"{item['tokens_seen']:,}",
            _clock(item["elapsed_s"]),
        )
        for item in summaries
    ]
    _print_table(head, rows)
    print(f"\nlosses (means over the last {LAST_LINES} steps written)")
    for item in summaries:
        losses = ", ".join(f"{_short(name)} {value:.3f}" for name, value in item["losses"].items())
        print(f"  {item['run']}: {losses or 'none yet'}")


def _print_comparison(found: dict[str, Any], picture: Path | None) -> None:
    names = [f"A = {found['runs'][0]}", f"B = {found['runs'][1]}"]
    print("\n".join(names))
    print("\nconfiguration" if found["configuration"] else "\nthe configurations are the same")
    if found["configuration"]:
        rows = [(key, *(json.dumps(value) for value in pair)) for key, pair in found["configuration"].items()]
        _print_table(("key", "A", "B"), rows)
    metrics = [key for key in found["steps"][-1] if key != "step"]
    print(f"\nmetrics at equal steps, A / B (losses: means over the last {LAST_LINES})")
    rows = [
        (
            str(line["step"]),
            *(f"{_figure(line[key][0])} / {_figure(line[key][1])}" if key in line else "" for key in metrics),
        )
        for line in found["steps"]
    ]
    _print_table(("step", *(_short(key) for key in metrics)), rows)
    if picture:
        print(f"\ndrew {picture}")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(head[0], *head[1:])
    table.columns[0].overflow = "fold"
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _short(name: str) -> str:
    return name.removeprefix("loss_")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
