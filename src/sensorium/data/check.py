"""Finding what would not train, or would train the wrong thing: one pass over the rows, then over their hashes.

What is kept of a row is some seventy bytes of hashes, so memory does not grow with media or text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sensorium.config import RunConfig
from sensorium.data.check_between import Seen
from sensorium.data.check_media import Budgets, MediumFacts, examine, reason_of
from sensorium.data.findings import CheckResult, Finding
from sensorium.data.fingerprints import digest64, look_hasher
from sensorium.data.language import language_detector
from sensorium.data.sample import OverBudgetError
from sensorium.data.scan import (
    Rows,
    documents_of_row,
    fitting_templates,
    media_of_row,
    text_of_row,
)
from sensorium.data.schema import check_row
from sensorium.data.splits import SPLITS, split_of
from sensorium.media.errors import MediaError
from sensorium.sequence.document import Document, layout
from sensorium.sequence.tokenizer import Tokenizer

MIN_LANGUAGE_CHARS = 20
MIN_LANGUAGE_CONFIDENCE = 0.95
_SAMPLE_SIZE = 24  # media of each kind remembered for the contact sheet
# Questions about one picture, and edits of it, stand together: what was found of the last few media is not looked for
# again. Large ones are, so that 64 MiB hold them.
_NUM_RECENT, _RECENT_BYTES = 64, 2**20


def check(
    rows: Rows,
    config: RunConfig,
    *,
    budgets: Budgets | None = None,
    near_distance: int = 3,
    on_row: Callable[[], None] = lambda: None,
) -> CheckResult:
    """Look at every row, then at what rows have in common.

    Args:
        rows: of all files together.
        config: says what a document of a row is, and how long it may be.
        near_distance: bits of 64 in which perceptual hashes of pictures that look alike may differ; -1 does not
            look for them.
        on_row: called after every row, for a progress bar.
    """
    checker = _Checker(rows, config, budgets or Budgets(), near_distance)
    for number, row, problems in rows:
        checker.look(number, row, problems)
        on_row()
    return checker.finish()


class _Checker:
    def __init__(
        self,
        rows: Rows,
        config: RunConfig,
        budgets: Budgets,
        near_distance: int,
    ) -> None:
        self.rows, self.config, self.tokenizer = rows, config, Tokenizer.load(config.tokenizer)
        self.budgets, self.near_distance = budgets, near_distance
        self.result = CheckResult(rows)
        self.rng = np.random.default_rng(0)
        self.look_hash = look_hasher() if near_distance >= 0 else None
        if near_distance >= 0 and self.look_hash is None:
            self.result.skipped.append("near duplicates: pip install 'sensorium[curate]'")
        self.language_of = language_detector()
        if self.language_of is None:
            self.result.skipped.append("languages: pip install 'sensorium[curate]'")
        self.seen = Seen(rows)
        self.recent: OrderedDict[tuple[str, int], MediumFacts] = OrderedDict()

    def look(self, number: int, row: dict[str, Any], problems: list[str]) -> None:
        self.result.num_rows += 1
        for problem in problems:
            self._add("schema", number, row, problem)
        if not problems:
            problems = self._check_form(number, row)
        try:
            media, text = media_of_row(row), text_of_row(row)
        except (
            TypeError,
            AttributeError,
        ):  # nulls and strings where lists should be; the form's finding says so
            media, text = [], ""
        hashes = [digest64(medium.get("bytes") or b"") for _, medium in media]
        facts = self._look_at_media(number, row, media, hashes)
        self._look_at_words(number, row, text)
        self.seen.remember(number, row, text, hashes, [fact.look if fact else (0, 0) for fact in facts])
        if not problems:
            self._look_at_documents(number, row, facts)

    def finish(self) -> CheckResult:
        for file, reason in self.rows.file_problems:
            self.result.add(Finding("file", "", file.name, -1, reason))
        self.seen.compare(self.result, self.near_distance if self.look_hash else -1)
        return self.result

    def _check_form(self, number: int, row: Mapping[str, Any]) -> list[str]:
        try:
            check_row(row)
        except ValueError as error:
            reason = str(error).removeprefix(f"sample {row.get('id')!r}: ")
            self._add("placeholders" if "placeholder(s) but" in reason else "schema", number, row, reason)
            return [reason]
        return []

    def _look_at_media(
        self,
        number: int,
        row: Mapping[str, Any],
        media: list[tuple[str, Mapping[str, Any]]],
        hashes: Sequence[int],
    ) -> list[MediumFacts | None]:
        """Facts of every medium, None for one that does not decode."""
        facts: list[MediumFacts | None] = []
        for ordinal, (kind, medium) in enumerate(media):
            self.result.num_media[kind] += 1
            self._sample(kind, number, ordinal)
            fact = None
            try:
                if not medium.get("bytes") and medium.get("path"):
                    found = f"holds only the path {medium['path']!r} of this {kind}"
                    raise MediaError(kind, found, "expected its bytes", "import the data again")
                fact = self._examine(kind, medium, hashes[ordinal])
            except MediaError as error:
                self._add(reason_of(error), number, row, str(error))
            if fact:
                for oddity, reason, measure in fact.oddities:
                    self._add(oddity, number, row, f"{medium.get('path') or kind}: {reason}", measure=measure)
            facts.append(fact)
        return facts

    def _examine(self, kind: str, medium: Mapping[str, Any], hash64: int) -> MediumFacts:
        """``examine``, once for the same bytes in rows that are near to each other."""
        known = self.recent.get((kind, hash64))
        if known is None:
            known = examine(kind, medium, self.budgets, self.look_hash)
            if known.plain.nbytes <= _RECENT_BYTES:
                self.recent[kind, hash64] = known
            if len(self.recent) > _NUM_RECENT:
                self.recent.popitem(last=False)
        else:
            self.recent.move_to_end((kind, hash64))
        return replace(known, medium=medium)

    def _look_at_words(self, number: int, row: Mapping[str, Any], text: str) -> None:
        unknown = [
            c for c in ("license", "attribution") if str(row.get(c) or "").strip().lower() == "unknown"
        ]
        if unknown:
            self._add("license", number, row, f"{' and '.join(unknown)} unknown")
        language, concept, split = row.get("language"), row.get("concept") or "", row.get("split")
        if self.language_of and language and len(text) >= MIN_LANGUAGE_CHARS:
            found, confidence = self.language_of(text[:2000])
            if (
                confidence >= MIN_LANGUAGE_CONFIDENCE
                and found != language.replace("_", "-").split("-")[0].lower()
            ):
                reason = f"column says {language!r}, the text seems to be {found!r}: {_shortened(text)}"
                self._add("language", number, row, reason, measure=confidence)

        if concept.strip() and split in SPLITS and split_of(concept) != split:
            reason = f"concept {concept!r} is in {split}; by the rule of our data it belongs to {split_of(concept)}"
            self._add("concept_split", number, row, reason)

    def _look_at_documents(
        self, number: int, row: Mapping[str, Any], found: list[MediumFacts | None]
    ) -> None:
        facts = [fact for fact in found if fact]
        if len(facts) < len(found):
            return
        reads = {"image" if fact.kind == "video" else fact.kind: fact.kind for fact in facts}
        unread = sorted(
            kind for modality, kind in reads.items() if modality not in self.config.model.modalities
        )
        if unread:
            self._add("not_read", number, row, f"the recipe reads no {' and no '.join(unread)}")
            return
        templates = fitting_templates(row, self.rows.locate(number)[0].templates)
        if not templates:
            self._add("no_text", number, row, "no text, no names, no messages")
            return
        decoded = {id(fact.medium): fact.plain for fact in facts if fact.kind != "video"}
        for name in templates:
            try:
                documents = documents_of_row(
                    row, name, self.config, self.tokenizer, np.random.default_rng(0), decoded=decoded
                )
                length = max(map(self._length, documents), default=0)
            except OverBudgetError as error:
                self._add("too_long", number, row, str(error))
                return
            except ValueError as error:
                self._add("document", number, row, f"template {name!r}: {error}")
                return
            if length > self.config.data.row_length:
                reason = (
                    f"{length:,} tokens with template {name!r}, a row has {self.config.data.row_length:,}"
                )
                self._add("too_long", number, row, reason, measure=length)
                return

    def _length(self, document: Document) -> int:
        return len(layout(document.segments, pad_id=self.tokenizer.pad, emb_id=self.tokenizer.emb))

    def _sample(self, kind: str, number: int, ordinal: int) -> None:
        """Keep a random few of a stream of unknown length (reservoir sampling, algorithm R)."""
        kept = self.result.sample.setdefault(kind, [])
        if len(kept) < _SAMPLE_SIZE:
            kept.append((number, ordinal))
        elif (place := int(self.rng.integers(self.result.num_media[kind]))) < _SAMPLE_SIZE:
            kept[place] = (number, ordinal)

    def _add(
        self, kind: str, number: int, row: Mapping[str, Any], reason: str, *, measure: float = 0.0
    ) -> None:
        file, in_file = self.rows.locate(number)
        name = row.get("id")
        self.result.add(
            Finding(
                kind,
                name if isinstance(name, str) else "",
                file.name,
                in_file,
                reason,
                number,
                measure=measure,
            )
        )


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
