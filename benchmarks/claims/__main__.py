"""The claims of the design, as experiments: variants trained for equal FLOPs from several seeds, and compared.

    python -m benchmarks.claims --out runs/claims --claims joint,align --seeds 3 --jobs 2 --threads 1
    python -m benchmarks.claims --out runs/claims --report

Every finished run is one line of OUT/runs.jsonl, and a stopped one goes on from its last checkpoint when the same
command is given again. Variants that are the same run (the joint model of several claims) are trained once. Seeds come
one after the other, so that what is finished early can be compared.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims import report
from benchmarks.claims.settings import SIZES, Setting, setting, with_train
from benchmarks.claims.variants import CLAIMS, Variant
from benchmarks.common import machine

from sensorium.config import RunConfig, from_dict, to_dict

ROOT = Path(__file__).resolve().parents[2]
QUICK_TFLOP = 0.02


@dataclass(frozen=True)
class Job:
    """One run that is still to be done."""

    claim: str
    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return (
            f"{self.claim}-{self.variant.name}-{self.seed}".replace(" ", "_")
            .replace(",", "")
            .replace("%", "")
        )

    @property
    def config(self) -> RunConfig:
        """With its seed, which decides weights, order and noise."""
        return with_train(self.variant.config, seed=self.seed)

    def line(self, done: dict[str, Any]) -> dict[str, Any]:
        """What is written of it: the result, under its own name."""
        own = self.variant
        return {
            **done,
            "claim": self.claim,
            "variant": own.name,
            "group": own.group,
            "x": own.x,
            "seed": self.seed,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--claims", default=",".join(CLAIMS), help="names between commas")
    parser.add_argument("--variants", default="", help="only those whose names hold this regular expression")
    parser.add_argument("--shape", default="nano", choices=SIZES, help="width and depth")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="of matrix products"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tflop", type=float, help="of every run, instead of each claim's own")
    parser.add_argument("--data", type=Path, default=Path("data/starter"), help="the full starter data")
    parser.add_argument("--threads", type=int, default=1, help="of a run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument(
        "--prefix", default="", help="put before the command of every run, such as 'nice -n 5'"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of each run: shows that all of it works"
    )
    parser.add_argument(
        "--report", action="store_true", help="train nothing: tables and figures of what is there"
    )
    parser.add_argument("--json", type=Path, help="the lines with the machine they were measured on")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _run_one(options.one)
        return
    names = options.claims.split(",")
    unknown = [name for name in names if name not in CLAIMS]
    if unknown:
        parser.error(f"unknown claim {unknown[0]!r}; known are {', '.join(CLAIMS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: runs are told
    options.out.mkdir(parents=True, exist_ok=True)
    about = machine()
    if not options.report:
        work = (options.out / "data").resolve()
        start = setting(options.shape, options.data.resolve(), work, options.precision)
        jobs = _jobs(names, start, options)
        _references(options.out, start)
        _train(jobs, options)
    _write(options.out, names, options.json, about)


def _jobs(names: Sequence[str], start: Setting, options: argparse.Namespace) -> list[Job]:
    found = []
    for name in names:
        claim = CLAIMS[name]
        if claim.needs_full_data and not start.data.is_dir():
            print(f"{name}: not run, {start.data} is missing; build it with `sensorium data build starter`")
            continue
        tflop = QUICK_TFLOP if options.quick else options.tflop or claim.tflop
        variants = [v for v in claim.variants(start, tflop) if re.search(options.variants, v.name)]
        found += [Job(name, variant, seed) for seed in range(options.seeds) for variant in variants]
    return found


def _references(out: Path, start: Setting) -> None:
    from benchmarks.claims.measure import references

    path = out / "references.json"
    if not path.is_file():
        path.write_text(json.dumps(references(start.config, start.data), indent=2) + "\n", encoding="utf-8")


def _lines(out: Path) -> list[dict[str, Any]]:
    path = out / "runs.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    )


def _train(jobs: Sequence[Job], options: argparse.Namespace) -> None:
    """Run what is not done yet, several at once; the lines are written here, by one process."""
    from benchmarks.claims.train import fingerprint

    marks = [fingerprint(job.config, job.variant.tflop, job.variant.figures) for job in jobs]
    lines = _lines(options.out)
    results = {line["fingerprint"]: line for line in lines}
    named = {(line["fingerprint"], line["claim"], line["variant"]) for line in lines}
    waiting = {
        mark: job for mark, job in zip(reversed(marks), reversed(jobs), strict=True) if mark not in results
    }
    order = [mark for mark in dict.fromkeys(marks) if mark in waiting]
    for mark, job, result in _results(order, waiting, options):
        results[mark] = {**result, "fingerprint": mark}
        print(
            f"{time.strftime('%H:%M:%S')} {job.name}: {result['steps']} steps, {result['train_s']:.0f} s",
            flush=True,
        )
        _append(options.out, job.line(results[mark]))
        named.add((mark, job.claim, job.variant.name))
    for mark, job in zip(marks, jobs, strict=True):
        if mark in results and (mark, job.claim, job.variant.name) not in named:
            _append(options.out, job.line(results[mark]))


def _append(out: Path, line: dict[str, Any]) -> None:
    with (out / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _results(
    order: Sequence[str], waiting: dict[str, Job], options: argparse.Namespace
) -> Iterator[tuple[str, Job, dict[str, Any]]]:
    """(fingerprint, job, result) as they come. Runs that are under way are stopped with this process."""
    under_way: dict[str, subprocess.Popen[str]] = {}
    folder, left = options.out / "jobs", []
    for mark in order:
        path = folder / f"{mark}.result.json"
        if path.is_file():  # finished after the process that asked for it
            yield mark, waiting[mark], json.loads(path.read_text(encoding="utf-8"))
        else:
            left.append(mark)
    try:
        while left or under_way:
            while left and len(under_way) < options.jobs:
                mark = left.pop(0)
                under_way[mark] = _start(waiting[mark], mark, options)
            finished = [mark for mark, process in under_way.items() if process.poll() is not None]
            for mark in finished:
                code, log = under_way.pop(mark).returncode, folder / f"{mark}.log"
                if code:
                    raise SystemExit(f"{waiting[mark].name} failed with {code}; see {log}")
                result = (folder / f"{mark}.result.json").read_text(encoding="utf-8")
                yield mark, waiting[mark], json.loads(result)
            if not finished:
                time.sleep(0.2)
    finally:
        for process in under_way.values():
            os.killpg(process.pid, signal.SIGTERM)  # whatever the prefix started too; a run saves and ends
        for process in under_way.values():
            process.wait()


def _start(job: Job, mark: str, options: argparse.Namespace) -> "subprocess.Popen[str]":
    folder = options.out / "jobs"
    folder.mkdir(exist_ok=True)
    asked = {
        "config": to_dict(job.config),
        "tflop": job.variant.tflop,
        "figures": job.variant.figures,
        "folder": str((folder / mark).resolve()),
        "data": str(options.data.resolve()),
        "threads": options.threads,
    }
    path = folder / f"{mark}.json"
    path.write_text(json.dumps(asked), encoding="utf-8")
    command = [
        *shlex.split(options.prefix),
        sys.executable,
        "-m",
        "benchmarks.claims",
        "--one",
        str(path.resolve()),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    with (folder / f"{mark}.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, text=True, start_new_session=True
        )


def _run_one(path: Path) -> None:
    import torch
    from benchmarks.claims.train import run

    asked = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(asked["threads"])
    result = run(
        from_dict(RunConfig, asked["config"]),
        asked["tflop"],
        asked["figures"],
        Path(asked["folder"]),
        Path(asked["data"]),
    )
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(path.with_suffix(".result.json"))
    shutil.rmtree(asked["folder"])


def _write(out: Path, names: Sequence[str], json_path: Path | None, about: dict[str, Any]) -> None:
    """Tables on the terminal and in OUT/report.md, a figure of each claim, and the lines for a program."""
    lines = _lines(out)
    references = json.loads((out / "references.json").read_text(encoding="utf-8"))
    pieces = []
    for name in names:
        own, claim = [line for line in lines if line["claim"] == name], CLAIMS[name]
        if not own:
            continue
        pieces += [f"## {name}: {claim.question}", report.costs(own), report.table(own, claim.base)]
        fits = {figure: report.exponents(own, figure) for figure in claim.headline}
        pieces += [
            f"Exponent of {figure}: {fit.mean:+.3f} [{fit.low:+.3f}, {fit.high:+.3f}] over {fit.num_seeds} seeds."
            for figure, fit in fits.items()
            if fit is not None
        ]
        report.plot(own, claim.base, claim.headline, references, out / f"claims-{name}.png")
    pieces += ["Beside them: " + "; ".join(f"{key} {value:.3g}" for key, value in references.items()) + "."]
    text = "\n\n".join(pieces) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    print(text)
    if json_path:
        json_path.write_text(
            json.dumps({"machine": about, "results": lines}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
