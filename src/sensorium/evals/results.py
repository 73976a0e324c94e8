"""Results: a figure with everything that it takes to believe it and to get it again."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sensorium.evals.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure.

    Args:
        task: of which data, in words. metric: what was measured, with its owner's name where it has one.
        value: the figure. unit: "%", "rate", "rank", ...
        higher_is_better: which way is good.
        interval: of the value; None where there is none.
        n: samples that it is of.
        seed: of the answers. prompt: that the model was given, {} where the sample's own words stood.
        split: of the data. normalizer: that texts went through, or how they were compared.
        baselines: name -> value of the same metric. margins: name -> interval of the value minus that baseline's, on
            the same samples.
        model: which one.
    """

    task: str
    metric: str
    value: float
    n: int
    seed: int
    prompt: str
    split: str
    normalizer: str
    model: str
    unit: str = ""
    higher_is_better: bool = True
    interval: Interval | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    margins: dict[str, Interval] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Result":
        """Undo ``as_dict``."""
        interval = values["interval"]
        read = {
            "interval": None if interval is None else Interval(**interval),
            "margins": {name: Interval(**margin) for name, margin in values["margins"].items()},
        }
        return cls(**values | read)


def save_results(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Write ``{"about": ..., "results": [...]}`` whole or not at all; a value that is no number is null there."""
    content = {"about": about, "results": [result.as_dict() for result in results]}
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, path)


def load_results(path: Path) -> list[Result]:
    """Read what ``save_results`` wrote.

    Raises:
        ValueError: the file is none of these.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["results"]
        return [Result.from_dict(row) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is not a file of results ({error}); run the evaluation again") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
