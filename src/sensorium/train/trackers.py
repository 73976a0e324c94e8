"""Where a run's metrics and samples go beside its own files: TensorBoard, Weights & Biases, trackio.

Their packages are the extra ``track``; each is imported only where it is chosen.
"""

import importlib
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sensorium.config import RunConfig, to_dict
from sensorium.media.audio import SAMPLE_RATE
from sensorium.media.parts import Audio, Image

PROJECT = "sensorium"


class Tracker(Protocol):
    """What the trainer needs of one."""

    def log(self, values: Mapping[str, Any]) -> None:
        """The metrics of one step, ``step`` among them."""

    def samples(self, step: int, folder: Path) -> None:
        """What the model said, drew and played at fixed prompts: ``*.txt``, ``*.png``, ``*.wav``."""

    def close(self) -> None:
        """Nothing more comes."""


def open_trackers(config: RunConfig, run: Path, num_done: int) -> list[Tracker]:
    """Those that ``train.trackers`` names.

    Args:
        num_done: steps that are done; a resumed run goes on where it was.

    Raises:
        ValueError: a package is not installed.
    """
    return [TRACKERS[name](config, run, num_done) for name in config.train.trackers]


class TensorBoard:
    """Event files in ``RUN/tensorboard``: ``tensorboard --logdir runs`` shows all runs below a folder."""

    def __init__(self, config: RunConfig, run: Path, num_done: int) -> None:
        _find("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint that is resumed are done again: what was written of them is hidden.
        purge = {"purge_step": num_done + 1} if num_done else {}
        self.writer: Any = SummaryWriter(run / "tensorboard", **purge)

    def log(self, values: Mapping[str, Any]) -> None:
        """See ``Tracker``."""
        for name, value in _numbers(values).items():
            self.writer.add_scalar(name, value, values["step"])

    def samples(self, step: int, folder: Path) -> None:
        """See ``Tracker``."""
        for file in sorted(folder.iterdir()):
            name = f"samples/{file.stem}"
            if file.suffix == ".png":
                self.writer.add_image(name, Image(file).pixels(), step, dataformats="HWC")
            elif file.suffix == ".wav":
                self.writer.add_audio(name, Audio(file).waveform()[None], step, SAMPLE_RATE)
            elif file.suffix == ".txt":
                # Two blanks at the end of a line keep it a line in Markdown.
                self.writer.add_text(name, file.read_text(encoding="utf-8").replace("\n", "  \n"), step)
        self.writer.flush()

    def close(self) -> None:
        """See ``Tracker``."""
        self.writer.close()


class WandB:
    """Weights & Biases, project ``sensorium``; ``WANDB_MODE=offline`` keeps everything in ``RUN/wandb``."""

    def __init__(self, config: RunConfig, run: Path, num_done: int) -> None:
        self.package = _find("wandb")
        kept = run / "wandb-id"
        if not kept.is_file():
            kept.write_text(uuid.uuid4().hex[:12])
        self.run: Any = self.package.init(
            project=PROJECT,
            name=run.name,
            id=kept.read_text().strip(),
            resume="allow",
            dir=str(run),
            config=to_dict(config),
        )

    def log(self, values: Mapping[str, Any]) -> None:
        """See ``Tracker``."""
        self.run.log(_numbers(values), step=values["step"])

    def samples(self, step: int, folder: Path) -> None:
        """See ``Tracker``."""
        found = _media(self.package, folder)
        for file in sorted(folder.glob("*.txt")):
            lines = file.read_text(encoding="utf-8").splitlines()
            found[f"samples/{file.stem}"] = self.package.Table(columns=["answer"], data=[[n] for n in lines])
        self.run.log(found, step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self.run.finish()


class Trackio:
    """trackio, project ``sensorium``: a database on this machine; ``trackio show`` opens it."""

    def __init__(self, config: RunConfig, run: Path, num_done: int) -> None:
        self.package = _find("trackio")
        self.run: Any = self.package.init(
            project=PROJECT,
            name=run.name,
            config=to_dict(config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
        )

    def log(self, values: Mapping[str, Any]) -> None:
        """See ``Tracker``."""
        self.run.log(_numbers(values), step=values["step"])

    def samples(self, step: int, folder: Path) -> None:
        """See ``Tracker``."""
        found = _media(self.package, folder)
        for file in sorted(folder.glob("*.txt")):
            text = file.read_text(encoding="utf-8").replace("\n", "  \n")
            found[f"samples/{file.stem}"] = self.package.Markdown(text)
        self.run.log(found, step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self.run.finish()


TRACKERS: dict[str, Callable[[RunConfig, Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def _media(package: Any, folder: Path) -> dict[str, Any]:
    """Pictures and sounds, for a package with the classes of Weights & Biases."""
    pictures = {f"samples/{f.stem}": package.Image(str(f)) for f in sorted(folder.glob("*.png"))}
    sounds = {
        f"samples/{f.stem}": package.Audio(str(f), sample_rate=SAMPLE_RATE)
        for f in sorted(folder.glob("*.wav"))
    }
    return {**pictures, **sounds}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(v) for name, v in values.items() if name != "step" and isinstance(v, int | float)}


def _find(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"train.trackers names {package}, which cannot be imported ({error}); "
            f"`pip install 'sensorium[track]'`, or leave {package} out"
        ) from error
