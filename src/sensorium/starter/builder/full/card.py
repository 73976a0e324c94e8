"""The data card of the full starter data, and the licence file of each source."""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from sensorium.data.splits import SPLITS
from sensorium.starter.builder.full.source import FullSource
from sensorium.starter.builder.packages import Package, fetch, read_members

_LICENSE_FILE = re.compile(
    r"^package/(LICEN[CS]E|COPYING|NOTICE)[^/]*$"
    r"|^usr/share/doc/[^/]+/(copyright|license\.txt)$"
    r"|^[^/]+\.dist-info/(licenses/)?(LICEN[CS]E|COPYING|NOTICE)[^/]*$",
    re.IGNORECASE,
)
_MAX_ATTRIBUTIONS = 40
_LINE = "\n\n" + "-" * 80 + "\n\n"
_SHARE_ALIKE = (
    "SHARE-ALIKE: some or all files of this folder are not under the licence of the code that made them.\n"
    "Whoever passes them on, changed or not, must name their authors, link the licence, say what was\n"
    "changed, and pass them on under the same licence. The column `license` of each row says which.\n"
)
# The packages of Fluent Emoji name their licence without its text.
_FLUENT_MIT = """MIT License

Copyright (c) Microsoft Corporation.
{packager}
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
_LINKS = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "MIT": "https://opensource.org/license/mit",
    "ISC": "https://opensource.org/license/isc-license-txt",
    "BSD-3-Clause": "https://opensource.org/license/bsd-3-clause",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-PDDC": "https://creativecommons.org/licenses/publicdomain/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "GPL-2.0-or-later": "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html",
    "GPL-3.0-or-later": "https://www.gnu.org/licenses/gpl-3.0.html",
    "Unicode-3.0": "https://www.unicode.org/license.txt",
}


def license_text(
    source: FullSource, licenses: Counter[str], attributions: dict[str, int], cache: Path
) -> str:
    """Return LICENSE.txt of a source: what its rows are under, whose they are, and the packages' own texts.

    Args:
        source: what it is made from.
        licenses: number of rows by licence.
        attributions: number of rows by attribution.
        cache: the folder of packages.
    """
    head = [f"Source {source.name!r}: {sum(licenses.values()):,} rows.", ""]
    for name, count in sorted(licenses.items()):
        head.append(f"  {name}: {count:,} rows" + (f" ({_LINKS[name]})" if name in _LINKS else ""))
    head += ["", "Whose work it is, and what was changed (the column `attribution` of each row):", ""]
    most = sorted(attributions.items(), key=lambda item: (-item[1], item[0]))
    head += [f"  {text} [{count:,} rows]" for text, count in most[:_MAX_ATTRIBUTIONS]]
    if len(most) > _MAX_ATTRIBUTIONS:
        head.append(f"  and {len(most) - _MAX_ATTRIBUTIONS:,} more, each in its row")
    parts = [_SHARE_ALIKE] if any("-SA-" in name for name in licenses) else []
    parts.append("\n".join(head))
    if any("Apache-2.0" in name for name in licenses):
        apache = files("sensorium.starter.builder").joinpath("licenses/Apache-2.0.txt")
        parts.append(apache.read_text(encoding="utf-8").strip("\n"))
    for package in source.packages:
        parts += _package_texts(package, cache)
    return _LINE.join(parts).rstrip() + "\n"


def _package_texts(package: Package, cache: Path) -> list[str]:
    found = []
    for name, data in read_members(fetch(package, cache), lambda name: _LICENSE_FILE.match(name) is not None):
        # What the package depends on brings a file of its own under another name.
        found.append(
            f"{package.name} {package.version}, {name}:\n\n{data.decode('utf-8', 'replace').strip()}"
        )
    if not found and "/fluent-emoji" in package.name:
        packager = "Copyright (c) 2023 LobeHub.\n" if package.name.startswith("@lobehub/") else ""
        found.append(f"{package.name} {package.version}:\n\n{_FLUENT_MIT.format(packager=packager)}")
    return found


def totals(written: dict[str, dict[str, Any]], manifest_files: dict[str, Any]) -> dict[str, Any]:
    """Return counts over all sources, their bytes, and the fingerprint of the data.

    The fingerprint is the SHA-256 of the lines "hash  path" of all Parquet files, in order of their paths: what
    `sha256sum` prints for them.
    """
    shards = {name: entry for name, entry in sorted(manifest_files.items()) if name.endswith(".parquet")}
    lines = "".join(f"{entry['sha256']}  {name}\n" for name, entry in shards.items())
    summed: dict[str, Counter[str]] = {key: Counter() for key in ("tasks", "splits", "languages", "licenses")}
    for entry in written.values():
        summed["tasks"][entry["task"]] += entry["num_rows"]
        for key in ("splits", "languages", "licenses"):
            summed[key].update(entry[key])
    return {
        "num_rows": sum(entry["num_rows"] for entry in written.values()),
        "num_bytes": sum(entry["num_bytes"] for entry in shards.values()),
        "fingerprint": sha256(lines.encode()).hexdigest(),
        **{key: dict(sorted(counter.items())) for key, counter in summed.items()},
    }


def card_text(written: dict[str, dict[str, Any]], total: dict[str, Any]) -> str:
    """Return README.md of the data: what it holds, source by source, in Markdown."""
    sources = [
        (
            name,
            entry["task"],
            f"{entry['num_rows']:,}",
            f"{entry['num_concepts']:,}",
            *(f"{entry['splits'].get(split, 0):,}" for split in SPLITS),
            str(len([language for language in entry["languages"] if language != "none"])),
            ", ".join(entry["licenses"]),
        )
        for name, entry in written.items()
    ]
    parts = [
        "# The full starter data of Sensorium",
        "Real pictures, sounds, speech, words and questions from packages of public registries, and pairs made "
        "of them. Built by `sensorium data build starter`; the same packages give the same bytes.",
        f"{total['num_rows']:,} rows, {total['num_bytes']:,} bytes of Parquet. Fingerprint (SHA-256 of the "
        f"list of hashes and names of the Parquet files): `{total['fingerprint']}`.",
        "## Sources",
        _table(("Source", "Task", "Rows", "Concepts", *SPLITS, "Languages", "Licences"), sources),
        "## Tasks",
        _counts("Task", total["tasks"]),
        "## Splits",
        "By concept (SHA-1 of the English name), never by file. Held out whole: the drawing style OpenMoji and "
        "two synthetic voices, which are in `test` only.",
        _counts("Split", total["splits"]),
        "## Edit pairs",
        _counts("Operation", _sum(entry["operations"] for entry in written.values())),
        "## Languages",
        "Of the words of a row; `none` where a row has no language.",
        _counts("Language", total["languages"]),
        "## Licences",
        "Each row states its licence and whose work it is; each folder has the texts in LICENSE.txt. Folders "
        "with share-alike rows may be passed on only under the same licence.",
        _counts("Licence", total["licenses"]),
        "## What it is not",
        "Mostly clip art: it says nothing about natural photographs. Synthetic speech is marked "
        "`metadata.synthetic = true`. The slices of one brain teach the location of regions and are not for "
        "diagnosis.",
        "## Packages",
        _table(("Source", "Package", "SHA-256"), _package_rows(written)),
    ]
    return "\n\n".join(parts) + "\n"


def _package_rows(written: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (name, file, f"`{digest[:16]}…`")
        for name, entry in written.items()
        for file, digest in sorted(entry["asked"]["packages"].items())
    ]


def _sum(counters: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return dict(sorted(total.items()))


def _counts(name: str, counts: dict[str, int]) -> str:
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _table((name, "Rows"), [(key, f"{count:,}") for key, count in rows])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
