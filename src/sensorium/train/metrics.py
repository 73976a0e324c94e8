"""What a run writes down: metrics.jsonl, metrics.csv, a plot of the losses, and one line on the terminal."""

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from sensorium.pretrained import write_file


class MetricsLog:
    """Appends one JSON object per step to ``metrics.jsonl``.

    Args:
        num_done: steps that are done; lines of later ones are dropped: a resumed run writes each once.

    Raises:
        OSError: the disk is full, say; what was written before is kept.
    """

    def __init__(self, run: Path, num_done: int) -> None:
        self.path = run / "metrics.jsonl"
        kept = [line for line in read_metrics(run) if line["step"] <= num_done]
        partial = run / ".metrics.partial"
        try:
            write_file(partial, "".join(json.dumps(line) + "\n" for line in kept).encode())
            os.replace(partial, self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise self._explain(error) from error

    def write(self, values: dict[str, Any]) -> None:
        """One line, flushed at once."""
        line = json.dumps({k: _short(v) if isinstance(v, float) else v for k, v in values.items()})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise self._explain(error) from error

    def _explain(self, error: OSError) -> OSError:
        why = error.strerror or str(error)
        return OSError(error.errno, f"cannot write {self.path} ({why}); free disk space and resume")


def _short(value: float) -> float:
    """Six decimals, and of small numbers (a learning rate) six digits."""
    return round(value, 6) if abs(value) >= 0.1 else float(f"{value:.6g}")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of a run; a last line cut short by a crash is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    out = []
    for line in lines:
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return out


def write_csv(run: Path) -> None:
    """``metrics.csv`` with the columns of all steps."""
    lines = read_metrics(run)
    columns = list(dict.fromkeys(key for line in lines for key in line))
    with (run / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)


COLOURS = (("#9db4c8", "#1b4f72"), ("#e8b4a0", "#a93226"))  # as it is, and smoothed


def plot_losses(run: Path) -> Path:
    """``loss.png`` of a run: every loss over steps, smoothed, on its own scale."""
    return plot_runs({"": read_metrics(run)}, run / "loss.png")


def plot_runs(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> Path:
    """Every loss of one or two runs in one picture.

    Args:
        runs: label -> lines of one or two runs; the losses are those of the first one's last line.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = next(iter(runs.values()), [])
    names = [key for key in (lines[-1] if lines else {}) if key.startswith("loss")]
    figure = Figure(figsize=(3.2 * max(len(names), 1), 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    for number, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), number + 1)
        for (label, own), (pale, strong) in zip(runs.items(), COLOURS, strict=False):
            points = [(line["step"], line[name]) for line in own if line.get(name) is not None]
            steps, values = [p[0] for p in points], [p[1] for p in points]
            axes.plot(steps, values, color=pale, linewidth=0.6)
            axes.plot(steps, _smooth(values), color=strong, linewidth=1.6, label=label)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if number == 0 and len(runs) > 1:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return path


def _smooth(values: list[float], decay: float = 0.95) -> list[float]:
    """Exponential average, corrected for its start."""
    out, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        out.append(total / weight)
    return out


class Progress:
    """One line that renews itself on a terminal, plain lines elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()

    def show(self, values: dict[str, Any], *, num_steps: int, eta_s: float) -> None:
        """Step, bar, each loss, learning rate, gradient norm, tokens/s, time waiting for data, ETA."""
        done = int(20 * values["step"] / max(num_steps, 1))
        losses = " ".join(
            f"{k.removeprefix('loss_')} {v:.3f}" for k, v in values.items() if k.startswith("loss_")
        )
        text = (
            f"step {values['step']}/{num_steps} [{'=' * done}{' ' * (20 - done)}] {losses} "
            f"lr {values['lr']:.1e} norm {values['grad_norm']:.2f} {values['tokens_per_s']:.0f} tok/s "
            f"wait {values['data_wait_s']:.2f}s ETA {int(eta_s) // 60}:{int(eta_s) % 60:02d}"
        )
        print(
            f"\r\033[K{text}" if self.live else text,
            end="" if self.live else "\n",
            file=self.stream,
            flush=True,
        )

    def close(self) -> None:
        """End the line."""
        if self.live:
            print(file=self.stream)
