"""``sensorium data VERB``: a table of verbs on data; a verb's module is imported only when it is chosen."""

import difflib
import importlib
from collections.abc import Sequence

# verb: (module with main(arguments) -> exit code or None, what it does in one line)
VERBS: dict[str, tuple[str, str]] = {
    "import": ("sensorium.commands.data.import_", "make shards of folders, tables, archives, conversations"),
    "export": (
        "sensorium.commands.data.export",
        "write shards as WebDataset tars or for the datasets library",
    ),
    "check": (
        "sensorium.commands.data.check",
        "find what would not train: a report with the worst offenders",
    ),
    "stats": ("sensorium.commands.data.stats", "histograms of tokens, pixels and seconds; tokens per epoch"),
    "show": ("sensorium.commands.data.show", "exactly what the model will see of one sample"),
    "filter": ("sensorium.commands.data.filter", "keep samples by size, aspect, language or alignment"),
    "dedup": ("sensorium.commands.data.dedup", "remove exact and near duplicates"),
    "embed": ("sensorium.commands.data.embed", "vectors of all samples by a model of ours"),
    "caption": ("sensorium.commands.data.caption", "words for samples that have none, by a model of ours"),
    "build": ("sensorium.commands.data.build", "build the full starter data from public packages"),
}


def usage() -> str:
    """What ``sensorium data --help`` prints."""
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: sensorium data VERB [ARGUMENTS]",
            "",
            "Bring data in, look at it, clean it, and send it out again. docs/data.md explains the samples.",
            "",
            "Verbs:",
            *(f"  {verb:<{width}}  {line}" for verb, (_, line) in VERBS.items()),
            "",
            "Examples:",
            "  sensorium data import photos/ --out data/photos",
            "  sensorium data check data/photos --report report.html",
            "  sensorium data show data/photos 0 --recipe tiny",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Run one verb on data."""
    first = arguments[0] if arguments else "--help"
    if first in ("--help", "-h", "help"):
        print(usage())
        return 0
    if first not in VERBS:
        near = difflib.get_close_matches(first, VERBS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown verb {first!r}; the nearest is {near!r}; `sensorium data --help` lists them all"
        )
    module = importlib.import_module(VERBS[first][0])
    return int(module.main(arguments[1:]) or 0)
