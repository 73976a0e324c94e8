"""Who gets the machine next, and whose sequences have a row of the cache.

The policy. Jobs are served in order of arrival. Each iteration of the engine

1. gives rows to waiting jobs, oldest first, as long as rows times the longest sequence stays within the token
   budget; nobody overtakes. A job whose prompt shares a beginning with one that is being read waits until it can copy it;
2. reads at most ``prefill_tokens`` positions of prompts, oldest first (a medium is never cut);
3. takes one decoding step for every row of text;
4. spends time on pictures and sounds: while text is being read or written, ``media_share`` of the time, accounted for
   as credit in seconds, in portions of ``denoise_tokens`` positions, the drawing with the fewest steps behind it
   first; without text, all of it.

When rows outgrow the budget, the youngest job gives its rows back (its keys and values go to the prefix cache, and
what is no longer there when its turn comes is computed again), so the oldest always gets to its end.
"""

import math
from dataclasses import dataclass

from sensorium.generate.denoising import Drawing
from sensorium.generate.job import Job
from sensorium.generate.sequences import PrefixCache, TokenSequence, common_prefix
from sensorium.model.kv_cache import KVCache


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Budgets and shares.

    Args:
        cache_tokens: budget of the cache: rows times the longest row, in positions.
        prefix_tokens: positions kept of sequences that have left, for those that begin alike; 0 keeps none.
        feature_patches: patches whose encoder features are kept by content.
        max_rows: sequences at once.
        prefill_tokens: positions of prompts read between two decoding steps.
        denoise_tokens: positions denoised between two decoding steps.
        media_share: share of the time that pictures and sounds get while there is text.
    """

    cache_tokens: int = 32_768
    prefix_tokens: int = 16_384
    feature_patches: int = 16_384
    max_rows: int = 64
    prefill_tokens: int = 256
    denoise_tokens: int = 256
    media_share: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.media_share < 1:
            raise ValueError(f"media_share is {self.media_share}; expected between 0 and 1")
        if min(self.cache_tokens, self.max_rows, self.prefill_tokens, self.denoise_tokens) < 1:
            raise ValueError("cache_tokens, max_rows, prefill_tokens and denoise_tokens are at least 1")


class Scheduler:
    """Keeps jobs, rows and credit; runs nothing itself."""

    def __init__(self, config: EngineConfig, cache: KVCache, prefixes: PrefixCache) -> None:
        self.config, self.cache, self.prefixes = config, cache, prefixes
        self.waiting: list[Job] = []  # oldest first, as all lists of jobs
        self.active: list[Job] = []
        self.rows: list[TokenSequence] = []  # whose each row is
        self.credit_s = 0.0
        self.num_preemptions = 0

    def admit(self) -> list[Job]:
        """Step 1: give rows to whoever waits; return the jobs that got theirs now."""
        placed = []
        for job in list(self.active):  # a drawing that has just begun brings branches
            if job in self.active and any(s.row is None for s in job.sequences):
                while not self._place(job):
                    if self.active[-1] is job:
                        self._preempt(job)
                        break
                    self._preempt(self.active[-1])
        for job in list(self.waiting):
            if self._should_wait(job):
                continue
            if not self._place(job):
                break
            self.waiting.remove(job)
            self.active.append(job)
            placed.append(job)
        self.active.sort(key=lambda job: job.number)
        return placed

    def release(self, job: Job) -> None:
        """Take a job's rows, keeping what was read for those that begin alike."""
        for sequence in job.held:
            self._free(sequence)
        job.held = []
        for jobs in (self.active, self.waiting):
            if job in jobs:
                jobs.remove(job)

    def trim(self, job: Job) -> None:
        """Take the rows of branches that a job needs no more."""
        for sequence in [s for s in job.held if s not in job.sequences]:
            self._free(sequence)
            job.held.remove(sequence)

    def make_room(self) -> None:
        """Send the youngest away until what is active fits into the next step."""
        while len(self.active) > 1 and not self.cache.fits(
            len(self.rows), max(j.length for j in self.active)
        ):
            self._preempt(self.active[-1])

    def reading(self) -> list[tuple[TokenSequence, int]]:
        """Step 2: which positions of which prompts to read."""
        chosen: list[tuple[TokenSequence, int]] = []
        longest = furthest = 0
        for job in self.active:
            for sequence in job.sequences:
                if not sequence.num_unread:
                    continue
                room = self.config.prefill_tokens - sum(count for _, count in chosen)
                if chosen and room < min(sequence.num_unread, 32):
                    return chosen
                count = sequence.next_chunk(max(room, 1))
                longest = max(longest, count)
                furthest = max(furthest, sequence.num_read)
                # Padded to the longest, these rows would cost more or reach further than they may.
                if chosen and (
                    (len(chosen) + 1) * longest > 2 * self.config.prefill_tokens
                    or not self.cache.fits(len(self.rows), furthest + longest)
                ):
                    return chosen
                chosen.append((sequence, count))
        return chosen

    def decoding(self) -> list[Job]:
        """Step 3: the jobs that wait for a token."""
        return [job for job in self.active if job.wants_token]

    def denoising(self) -> list[tuple[Drawing, str]]:
        """Step 4: which evaluations to make next, of one modality and within the portion."""
        jobs = sorted((j for j in self.active if j.can_denoise), key=lambda j: (j.progress, j.number))
        chosen: list[tuple[Drawing, str]] = []
        longest = furthest = 0
        for job in jobs:
            drawing = job.drawing
            assert drawing is not None
            if chosen and drawing.modality != chosen[0][0].modality:
                continue
            for branch in drawing.todo:
                longest = max(longest, math.prod(drawing.grid))
                furthest = max(furthest, drawing.branches[branch].num_read)
                if chosen and (
                    (len(chosen) + 1) * longest > self.config.denoise_tokens
                    or not self.cache.fits(len(self.rows), furthest + longest)
                ):
                    return chosen
                chosen.append((drawing, branch))
        return chosen

    def may_denoise(self) -> bool:
        """Whether pictures and sounds have time left."""
        return self.credit_s > 0 or not self.has_text

    @property
    def has_text(self) -> bool:
        """Whether anyone is reading or writing."""
        return any(not job.can_denoise for job in self.active)

    def account(self, text_s: float, media_s: float) -> None:
        """Note the time of an iteration: text earns credit for media, media spend it."""
        share = self.config.media_share
        self.credit_s += text_s * share / (1 - share) - media_s
        if not self.has_text or not any(job.can_denoise for job in self.active):
            self.credit_s = 0.0  # what one side did alone, the other need not make up for

    def neighbours(self, sequences: list[TokenSequence]) -> list[TokenSequence]:
        """Order sequences by row, after moving them together, so that a step over them copies nothing."""
        order = sorted(sequences, key=lambda s: -1 if s.row is None else s.row)
        if order[-1].row != (order[0].row or 0) + len(order) - 1:
            for row, sequence in enumerate(order):
                if sequence.row != row:
                    self._swap(row, sequence.row or 0)
        return order

    def _place(self, job: Job) -> bool:
        """Give a job its rows if they fit, with what is known of their beginnings."""
        missing = [s for s in job.sequences if s.row is None]
        num_rows = len(self.rows) + len(missing)
        others = max((j.length for j in self.active), default=0)
        if num_rows > self.config.max_rows or not self.cache.fits(num_rows, max(job.length, others)):
            return False
        for sequence in missing:
            sequence.row = self.cache.add_row()
            self.rows.append(sequence)
            job.held.append(sequence)
            self._reuse(sequence)
        return True

    def _reuse(self, sequence: TokenSequence) -> None:
        """Copy the longest known beginning of a sequence from a row or from the prefix cache."""
        keys = sequence.keys
        assert sequence.row is not None
        best, kept = self.prefixes.find(keys)
        source = None
        for other in self.rows[:-1]:
            common = common_prefix(keys, other.keys[: other.num_read])
            if common > best:
                best, source = common, other
        # The last position is read again: its hidden state is what comes next.
        best = sequence.cut(min(best, sequence.total - 1))
        if not best or self.config.prefix_tokens == 0:
            return
        if source is not None and source.row is not None:
            self.cache.copy_prefix(source.row, sequence.row, best)
        elif kept is not None:
            self.cache.import_row(sequence.row, kept, best)
        sequence.num_read = sequence.num_reused = best

    def _should_wait(self, job: Job) -> bool:
        """Whether another is reading a beginning that this job could copy later."""
        if self.config.prefix_tokens == 0:
            return False
        for sequence in job.sequences:
            for other in self.rows:
                if other.num_unread > 1 and other.num_read < common_prefix(sequence.keys, other.keys) - 16:
                    return True
        return False

    def _preempt(self, job: Job) -> None:
        """Send a job back to wait; it goes on where it was."""
        self.release(job)
        for sequence in job.sequences:
            sequence.num_read, sequence.hidden_D = 0, None
        self.waiting.append(job)
        self.waiting.sort(key=lambda job: job.number)
        self.num_preemptions += 1

    def _free(self, sequence: TokenSequence) -> None:
        row = sequence.row
        assert row is not None
        if sequence.num_read and self.prefixes.max_tokens:
            self.prefixes.put(sequence.keys[: sequence.num_read], self.cache.export_row(row))
        self.cache.drop_row(row)
        last = self.rows.pop()
        if last is not sequence:
            self.rows[row], last.row = last, row
        sequence.row = None

    def _swap(self, a: int, b: int) -> None:
        self.cache.swap_rows(a, b)
        first, second = self.rows[a], self.rows[b]
        self.rows[a], self.rows[b] = second, first
        first.row, second.row = b, a
