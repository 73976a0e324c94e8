"""``sensorium train vocoder``: the network that turns spectrograms into sound."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from sensorium.commands.arguments import run_tyro
from sensorium.evals.sound import score_vocoder
from sensorium.media.audio import griffin_lim
from sensorium.pretrained.vocos import load_vocoder
from sensorium.train.vocoder import VocoderRun, VocoderTrainer, read_sounds

DESCRIPTION = """Train a vocoder on any sounds and compare it with Griffin-Lim on sounds it has not heard:
  sensorium train vocoder --out FOLDER [--data SOURCE ...] [--KEY VALUE ...]

FOLDER/vocoder.safetensors is the result: sensorium generate ... --vocoder FOLDER uses it. --resume goes on after an
interruption, with the saved configuration. It is no recipe of the model: it has no --dry-run, and `sensorium info`
does not show it.

Examples:
  sensorium train vocoder --out runs/vocoder
  sensorium train vocoder --out runs/mine --data speech.parquet starter:scratch --num-steps 20000
"""


@dataclass(frozen=True, kw_only=True)
class TrainVocoder:
    """Arguments of ``sensorium train vocoder``."""

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the run."""
    resume: bool = False
    """Continue the run in that folder."""
    run: Annotated[VocoderRun, tyro.conf.arg(name="")] = field(default_factory=VocoderRun)


def main(arguments: Sequence[str]) -> int:
    """Train, then score."""
    if "--dry-run" in arguments:
        raise ValueError("train vocoder has no dry run: 0.7 M parameters fit anywhere; leave --dry-run out")
    chosen: TrainVocoder = run_tyro(TrainVocoder, arguments, verb="train vocoder", description=DESCRIPTION)
    names = (argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
    others = [name for name in names if name not in ("--out", "--resume")]
    if chosen.resume and others:
        raise ValueError(f"--resume goes on with the saved configuration; leave {', '.join(others)} out")
    trainer = VocoderTrainer(chosen.run, chosen.out, resume=chosen.resume)
    try:
        path = trainer.train(show=lambda values: _show(values, trainer.run.num_steps))
    except KeyboardInterrupt:
        print(
            f"stopped at step {trainer.step}; go on with: sensorium train vocoder --resume --out {chosen.out}"
        )
        raise
    try:
        unheard = read_sounds(trainer.run.data, "validation")
    except ValueError:
        print(f"saved {path}\nits data have no validation split: it was not compared with Griffin-Lim")
        return 0
    ours, griffin = score_vocoder(unheard, load_vocoder(path).sound), score_vocoder(unheard, griffin_lim)
    print(f"on {len(unheard)} sounds it has not heard (smaller is nearer):")
    for name, value in ours.items():
        print(f"  {name:<14} {value:.3f}  Griffin-Lim {griffin[name]:.3f}")
    print(f"saved {path}")
    return 0


def _show(values: dict[str, Any], num_steps: int) -> None:
    eta_s = int(values["eta_s"])
    print(
        f"step {values['step']}/{num_steps} mel {values['mel']:.3f} stft {values['stft']:.3f} "
        f"lr {values['lr']:.1e} ETA {eta_s // 60}:{eta_s % 60:02d}",
        file=sys.stderr,
        flush=True,
    )
