"""``sensorium doctor``: is this machine and this installation all right?"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensorium.commands.arguments import parse
from sensorium.commands.checks import CHECKS, Check

DESCRIPTION = """Check this machine and this installation. Every line is ok, warn (works, but not as it could)
or fail (something does not work), with what to do about it. Exits with 1 if a line is fail.

Examples:
  sensorium doctor
  sensorium doctor --json
"""
COLOURS = {"ok": "32", "warn": "33", "fail": "31"}


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Arguments of ``sensorium doctor``."""

    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Run all checks and print a line for each as it is done."""
    chosen, _ = parse(Doctor, arguments, verb="doctor", description=DESCRIPTION)
    checks = []
    for name, examine in CHECKS.items():
        for check in _run(name, examine):
            checks.append(check)
            if not chosen.json:
                _show(check)
    num_failed = sum(check.status == "fail" for check in checks)
    if chosen.json:
        print(json.dumps({"ok": num_failed == 0, "checks": [vars(check) for check in checks]}))
    else:
        print(f"\n{num_failed} of {len(checks)} checks failed" if num_failed else "\nready")
    return 1 if num_failed else 0


def _run(name: str, examine: Callable[[], list[Check]]) -> list[Check]:
    """A check that breaks is a finding, and the others still run."""
    try:
        return examine()
    except Exception as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
        return [Check(name, "fail", found, "reinstall sensorium and run doctor again")]


def _show(check: Check) -> None:
    status = f"{check.status:<4}"
    if sys.stdout.isatty():
        status = f"\033[{COLOURS[check.status]}m{status}\033[0m"
    mend = f"; {check.mend}" if check.mend else ""
    print(f"{status}  {check.name:<13} {check.found}{mend}", flush=True)
