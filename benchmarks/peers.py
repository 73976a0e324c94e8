"""Ours and its peers on the same work: the same data, the same size, the same number of training operations.

    python benchmarks/peers.py --peers-python peers/bin/python [--whisper FOLDER] [--tflop 15] [--json peers.json]

Four rows, each with the budget ``--tflop`` (teraflops of training):

- retrieval: pictures of an unseen drawing style and their names; peer ``open_clip``.
- text: naming those pictures, and easy-vqa's questions; peer a LLaVA-style build from ``transformers``.
- pictures: drawing what a name says; peer ``transfusion-pytorch``.
- speech: transcribing prompts that were not trained on; peer Whisper base, which is not trained here but taken as it is.

"ours, alone" is a model for each row with that row's budget, as each peer has. "ours, joint" is one model for all rows
with the sum of the rows' budgets, of which each row's samples get that row's part.

Settings (learning rate, batch) are chosen for every system by its own loss on samples that are not asked (for retrieval
by ranks), over the same grid, with the share ``--tuning`` of the row's budget for each try (for retrieval at least 1
TFLOP). Ours of the speech row takes those of the text row.

Everything that is done is appended to ``--out``: a run that was stopped goes on. docs/evaluation.md says how to make
the peers' environment; without ``--peers-python`` only ours runs. ``--quick`` is a trial of a minute that shows nothing.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RATES, BATCHES, JOINT_BATCH = (5e-4, 1.5e-3, 4e-3), (32, 96), 96
ALONE, TOGETHER = "ours, alone", "ours, joint"
PEERS = {"retrieval": "open_clip", "text": "transformers", "pictures": "transfusion", "speech": "whisper"}
# Before this many teraflops the contrastive loss of a row has hardly moved, and settings cannot be told apart.
LEAST_TRY = {"retrieval": 1.0}
RANK = "mean log rank"
QUICK = {"tflop": 0.02, "limit": 12}

Spec = dict[str, Any]


# What runs in a process of its own.


def work(spec: Spec) -> Spec:
    """Train one system with one setting; gives its loss on held-out samples, or what it answers."""
    import numpy as np
    import torch
    from peers.figures import mean_log_rank
    from peers.learning import learn, resting
    from peers.ours import sources_of
    from peers.work import ROWS, Asked, held_out, run_config

    from sensorium.data.loader import Loader
    from sensorium.sequence.tokenizer import Tokenizer
    from sensorium.train.optimizer import tune_allocator

    torch.set_num_threads(spec["threads"])
    tune_allocator()
    row, system, answers = spec["row"], spec["system"], Path(spec["out"]) / spec["answers"]
    if system == PEERS["speech"]:
        from peers.whisper import transcripts

        heard = transcripts(Path(spec["whisper"]), Asked.load(spec["limit"]), spec["threads"])
        np.savez_compressed(answers, **{f"speech/{k}": v for k, v in heard.items()})
        return {}
    torch.manual_seed(spec["seed"])
    tokenizer = Tokenizer.load("starter-1k")
    config = run_config(
        row,
        sources_of(row, tokenizer),
        lr=spec["lr"],
        batch=spec["batch"],
        seed=spec["seed"],
        optimizer="muon" if system in (ALONE, TOGETHER) else "adamw",
        drops_conditions=system != PEERS["pictures"],  # it does so itself
    )
    learner = learner_of(system)(config, tokenizer)
    loader = Loader(config.data, config.model, tokenizer, spec["seed"])
    done = learn(learner, loader, config.train, spec["tflop"])
    with resting(learner.model):
        if spec.get("chosen_by") == RANK:
            asked = Asked.clip_art()
            return done | {"held_out": mean_log_rank(**learner.answers(row, asked), names=asked.names)}
        if not spec["answers"]:
            documents = held_out(row, config, tokenizer)
            return done | {"held_out": float(learner.loss(learner.collate(documents), 0))}
        asked = Asked.load(spec["limit"])
        rows = ROWS if row == "joint" else (row,)
        found = {f"{one}/{k}": v for one in rows for k, v in learner.answers(one, asked).items()}
    np.savez_compressed(answers, **found)
    return done


def learner_of(system: str) -> Any:
    """The class of a system."""
    if system == PEERS["retrieval"]:
        from peers.clip import OpenClip

        return OpenClip
    if system == PEERS["text"]:
        from peers.llava import Llava

        return Llava
    if system == PEERS["pictures"]:
        from peers.transfusion import Transfusion

        return Transfusion
    from peers.ours import Ours

    return Ours


def judge(paths: Sequence[str], out: str) -> None:
    """Features of pictures in ``paths`` (keys with "pictures") by the independent judge."""
    import numpy as np
    from peers.judge import features

    np.savez_compressed(
        out,
        **{
            f"{n}/{key}": features(list(values))
            for n, path in enumerate(paths)
            for key, values in np.load(path).items()
            if "pictures" in key
        },
    )


# What calls them.


class Record:
    """What was done, one JSON a line; what is there is not done again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.lock = folder / "done.jsonl", threading.Lock()
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        # The last line of a run that was killed may be a part of one.
        self.done = {key_of(entry["spec"]): entry["done"] for entry in map(_read, lines) if entry}

    def get(self, spec: Spec, make: Callable[[], Spec]) -> Spec:
        """What a spec gave, now or earlier."""
        key = key_of(spec)
        if key not in self.done:
            made = make()
            with self.lock, self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"spec": spec, "done": made}) + "\n")
            self.done[key] = made
        return self.done[key]


def key_of(spec: Spec) -> str:
    """A spec without what changes no figure."""
    return json.dumps(
        {k: v for k, v in spec.items() if k not in ("threads", "whisper", "out")}, sort_keys=True
    )


def _read(line: str) -> Spec | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


class Table:
    """All runs of a table, tried settings first."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.record = options, Record(options.out)

    def systems(self) -> list[tuple[str, str]]:
        """(row, system) of all that is asked for."""
        rows = self.options.rows
        found = [("joint", TOGETHER)] if self.options.joint else []
        found += [(row, ALONE) for row in rows]
        if self.options.peers_python:
            found += [
                (row, PEERS[row]) for row in rows if PEERS[row] != PEERS["speech"] or self.options.whisper
            ]
        return found

    def spec(self, row: str, system: str, **own: Any) -> Spec:
        options = self.options
        return {
            "row": row,
            "system": system,
            "limit": options.limit,
            "threads": options.threads,
            "whisper": str(options.whisper or ""),
            "out": str(options.out),
            "answers": "",
            **own,
        }

    def tries(self, row: str, system: str) -> list[Spec]:
        """Settings to choose from, by a part of the row's budget."""
        if system == PEERS["speech"] or row == "speech":
            return []
        sizes = (JOINT_BATCH,) if system == TOGETHER else BATCHES
        rates = RATES[1:2] if self.options.quick else RATES
        sizes = sizes[:1] if self.options.quick else sizes
        tflop = self.options.tflop * self.options.tuning
        if not self.options.quick:
            tflop = max(tflop, LEAST_TRY.get(row, 0.0))
        by = {"chosen_by": RANK} if row == "retrieval" else {}
        return [
            self.spec(row, system, lr=lr, batch=batch, seed=0, tflop=tflop, **by)
            for lr in rates
            for batch in sizes
        ]

    def chosen(self, row: str, system: str) -> Spec:
        """The setting that is best on held-out samples."""
        if system == PEERS["speech"]:
            return {"lr": 0.0, "batch": 0}

        def loss(spec: Spec) -> float:
            found = self.record.done[key_of(spec)]["held_out"]
            return found if math.isfinite(found) else math.inf

        best = min(self.tries("text" if row == "speech" else row, system), key=loss)
        return {"lr": best["lr"], "batch": best["batch"]}

    def final(self, row: str, system: str, seed: int) -> Spec:
        """The run that is asked."""
        budgets = len(PEERS) if system == TOGETHER else 1
        chosen = self.chosen(row, system)
        parts = (row, system, *chosen.values(), seed, self.options.tflop, self.options.limit)
        return self.spec(
            row,
            system,
            **chosen,
            seed=seed,
            tflop=0.0 if system == PEERS["speech"] else self.options.tflop * budgets,
            answers="-".join(map(str, parts)).replace(", ", "-") + ".npz",
        )

    def run(self) -> dict[str, dict[str, list[Spec]]]:
        """Everything; row -> system -> spec of each seed."""
        systems = self.systems()
        text = [("text", ALONE)] if ("speech", ALONE) in systems and ("text", ALONE) not in systems else []
        self._all(spec for row, system in [*systems, *text] for spec in self.tries(row, system))
        finals = {
            (row, system, seed): self.final(row, system, seed)
            for seed in range(self.options.seeds)
            for row, system in systems
            if seed == 0 or system != PEERS["speech"]
        }
        self._all(finals.values())
        found: dict[str, dict[str, list[Spec]]] = {row: {} for row in self.options.rows}
        for (row, system, _), spec in finals.items():
            for one in self.options.rows if row == "joint" else (row,):
                found[one].setdefault(system, []).append(spec)
        return found

    def _all(self, specs: Iterable[Spec]) -> None:
        pool = ThreadPoolExecutor(self.options.jobs)
        try:
            for future in [pool.submit(self._one, spec) for spec in specs]:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _one(self, spec: Spec) -> None:
        is_ours = spec["system"] in (ALONE, TOGETHER)
        python = sys.executable if is_ours else str(self.options.peers_python)

        def make() -> Spec:
            print(f"{spec['system']}, {spec['row']}: {_shown(spec)}", flush=True)
            done = call(python, "--one", json.dumps(spec), log=self.options.out / "log.txt")
            print(f"  {spec['system']}, {spec['row']}: {_shown(done)}", flush=True)
            return done

        self.record.get(spec, make)

    def features(self, paths: Sequence[str]) -> dict[str, Any] | None:
        """The judge's features of every picture in files, where there is a judge."""
        import numpy as np

        if not self.options.peers_python:
            return None
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/features.npz"
            arguments = ("--judge", json.dumps([list(paths), out]))
            call(str(self.options.peers_python), *arguments, log=self.options.out / "log.txt")
            return dict(np.load(out).items())


def call(python: str, *arguments: str, log: Path) -> Spec:
    """A fresh process; its last line is JSON, what it says on the way goes into a file."""
    with log.open("a", encoding="utf-8") as errors:
        done = subprocess.run(
            [python, __file__, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(arguments)[:300]} ended with {done.returncode}; see the end of {log}, mend it, and start "
            "again: what is done is kept"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _shown(values: Spec) -> str:
    kept = {k: v for k, v in values.items() if k in ("lr", "batch", "seed", "tflop", "held_out", "seconds")}
    return ", ".join(f"{k} {v:.4g}" for k, v in kept.items())


def main() -> None:
    from common import machine, write_results
    from peers.report import figures_of, lines_of, results_of
    from peers.work import ROWS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers-python", type=Path, help="interpreter of the peers' environment")
    parser.add_argument("--whisper", type=Path, help="folder of Whisper base for CTranslate2")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--no-joint", dest="joint", action="store_false", help="leave the joint model out")
    parser.add_argument(
        "--tflop", type=float, default=15.0, help="training budget of a row, in 10^12 operations"
    )
    parser.add_argument(
        "--tuning", type=float, default=0.1, help="share of that for each setting that is tried"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=int, default=0, help="of each thing asked; 0 means all")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--out", type=Path, default=Path("peers-results"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name, value in QUICK.items() if options.quick else ():
        setattr(options, name, value)
    table = Table(options)
    found = table.run()
    answers = {
        row: {n: [s["answers"] for s in specs] for n, specs in of.items()} for row, of in found.items()
    }
    figures = figures_of(options.out, answers, options.limit, table.features)
    print(f"\nBudget of a row: {options.tflop:g} TFLOP of training; seeds {options.seeds}.")
    runs = [
        spec | table.record.done[key_of(spec)] for of in found.values() for x in of.values() for spec in x
    ]
    for spec in {key_of(s): s for s in runs}.values():
        print(
            f"{spec['system']}, {spec['row']}: " + ", ".join(f"{k} {spec[k]:.4g}" for k in SHOWN if k in spec)
        )
    for figure in figures:
        print("\n".join(["", *lines_of(figure)]))
    if options.json:
        about = {
            **machine(),
            "tflop": options.tflop,
            "tuning": options.tuning,
            "seeds": options.seeds,
            "systems": runs,
        }
        write_results(options.json, [r for figure in figures for r in results_of(figure)], about)


SHOWN = ("parameters", "lr", "batch", "tflop", "steps", "samples", "cpu_seconds", "charged_over_counted")

if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(work(json.loads(sys.argv[2]))))
    elif sys.argv[1:2] == ["--judge"]:
        judge(*json.loads(sys.argv[2]))
        print("{}")
    else:
        main()
