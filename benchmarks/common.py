"""What every benchmark shares: the machine, alternating runs in fresh processes, and the result file."""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "processor": next(
            (
                line.partition(":")[2].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        ),
        "load_before": os.getloadavg()[0],
    }


def run_alone(script: str, *arguments: str, python: str = sys.executable) -> dict[str, Any]:
    """Run a script as a fresh process; its last line is JSON, to which its peak memory is added.

    Peak memory is the largest sum of anonymous and shared memory of the process and all its descendants, pages that
    they share counted once (the lines Pss_Anon and Pss_Shmem of the kernel); libraries on disk do not count.
    """
    process = subprocess.Popen([python, script, *arguments], stdout=subprocess.PIPE, text=True)
    peak_kb = 0

    def watch() -> None:
        nonlocal peak_kb
        while process.poll() is None:
            started = time.perf_counter()
            peak_kb = max(peak_kb, sum(map(_pss_kb, _family(process.pid))))
            # The kernel walks all pages and holds up who allocates: with 1 GB, every 50 ms, a step took a quarter longer.
            time.sleep(max(0.05, 50 * (time.perf_counter() - started)))

    thread = threading.Thread(target=watch)
    thread.start()
    out, _ = process.communicate()
    thread.join()
    if process.returncode:
        raise SystemExit(f"{script} {' '.join(arguments)} failed with {process.returncode}")
    return {**json.loads(out.strip().splitlines()[-1]), "peak_mb": peak_kb / 1024}


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children") if Path(f"/proc/{pid}").exists() else ():
        try:
            children = task.read_text().split()
        except OSError:  # it has just ended
            continue
        for child in children:
            found += _family(int(child))
    return found


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def result(
    metric: str, unit: str, ours: list[float], peer: str = "", theirs: list[float] | None = None
) -> dict[str, Any]:
    """One line of the result file: medians, their ratio, and every run."""
    mine = statistics.median(ours)
    other = statistics.median(theirs) if theirs else None
    return {
        "metric": metric,
        "ours": mine,
        "peer": peer,
        "theirs": other,
        "ratio": mine / other if other else None,
        "unit": unit,
        "runs": {"ours": ours, "theirs": theirs or []},
    }


def report(results: list[dict[str, Any]], json_path: Path | None, about: dict[str, Any]) -> None:
    """Print a table and write the file."""
    width = max(len(f"{r['metric']} {r['peer']}") for r in results)
    for r in results:
        spread = f"{min(r['runs']['ours']):,.2f} to {max(r['runs']['ours']):,.2f}"
        line = (
            f"{r['metric']} {r['peer']}".ljust(width) + f"  ours {r['ours']:>10,.2f} {r['unit']} ({spread})"
        )
        if r["theirs"] is not None:
            line += f"  theirs {r['theirs']:>10,.2f}  ratio {r['ratio']:.2f}"
        print(line)
    if json_path:
        write_results(json_path, results, about)


def write_results(path: Path, results: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """The result file alone."""
    path.write_text(json.dumps({"machine": about, "results": results}, indent=2) + "\n")
