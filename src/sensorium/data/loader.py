"""The training stream: batch ``n`` is a pure function of (configuration, seed, n).

The whole state of the data is that one integer, so resuming is instant and exact, at any number of ranks and
workers: step ``n`` always consumes the same samples, which ranks share out between them. Every source contributes
its weight's share to every batch; inside a source the order is a new permutation every epoch (``data.order``).
"""

import logging
import os
import queue
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import torch.utils.data

from sensorium.config import DataConfig, ModelConfig
from sensorium.data.mixture import open_mixture
from sensorium.data.sample import Arrays, OverBudgetError, decode_medium, sample_of_row
from sensorium.data.schema import check_row
from sensorium.data.templates import build_documents
from sensorium.data.workers import Batches, start_worker
from sensorium.sequence.document import Document, TextSegment, num_positions
from sensorium.sequence.packing import Batch, map_arrays, pack
from sensorium.sequence.tokenizer import Tokenizer

log = logging.getLogger(__name__)
MAX_BAD_RATE = 0.05  # over this share of visits a run stops: the data, not a sample, is broken
MAX_THREADS = 4
LARGEST_OF = 64  # steps among which ``largest_first`` looks


@dataclass
class Samples:
    """The documents of a step, and what could not be used.

    Args:
        bad: (id, reason) of samples that are broken; ``over_budget`` of those that are too large for this run.
    """

    documents: list[Document] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    over_budget: list[tuple[str, str]] = field(default_factory=list)
    num_visits: int = 0

    def extend(self, other: "Samples") -> "Samples":
        """Append those of another part of the step."""
        self.documents += other.documents
        self.bad += other.bad
        self.over_budget += other.over_budget
        self.num_visits += other.num_visits
        return self


class Loader:
    """Batches by number.

    Args:
        config: sources, weights, shapes.
        model: configuration of the model (patches and sizes of media).
        tokenizer: of the run.
        seed: of the order, the templates and the augmentation.
        rank, world_size: this process takes every ``world_size``-th sample of every source, so that ranks share out
            the row groups too (as long as there are no more ranks than ``shuffle_blocks``).
        num_microbatches: batches that this process makes of its share of a step.

    Raises:
        ValueError: a source has no row, a template is unknown, or the weights are not positive.
    """

    def __init__(
        self,
        config: DataConfig,
        model: ModelConfig,
        tokenizer: Tokenizer,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_microbatches: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}; expected 0 to {world_size - 1}")
        most = max(len(config.sources), len(config.clean_sources))
        # The sources' quotas are rounded: a step may have one sample less for each.
        self.num_parts = world_size * num_microbatches
        least = self.num_parts + most - 1
        if config.samples_per_step < least:
            raise ValueError(
                f"samples_per_step is {config.samples_per_step}; {world_size} ranks, {num_microbatches} micro-batches "
                f"and {most} sources need {least}, so that every batch has a sample in every step: raise it"
            )
        self.config, self.model, self.tokenizer, self.seed = config, model, tokenizer, seed
        self.rank, self.world_size, self.num_microbatches = rank, world_size, num_microbatches
        self.sources, self.stages = open_mixture(config, seed)
        self.bad: Counter[str] = Counter()
        self.over_budget: Counter[str] = Counter()
        self.num_visits = 0
        self._arrays = _ArrayCache(config.cache_mb * 2**20)
        self._draws = _Draws()
        self._largest: int | None = None
        # Decoders of sounds and videos let go of Python's lock; those of pictures do not, and threads cost them 10%.
        self._num_threads = 1 if config.num_workers else min(MAX_THREADS, os.cpu_count() or 1)
        self._pool: ThreadPoolExecutor | None = None
        self._with_sound: dict[int, bool] = {}

    def visits(self, step: int) -> list[tuple[int, int]]:
        """(source, visit) of every sample of a step."""
        stage = next(stage for stage in reversed(self.stages) if stage.first_step <= step)
        return stage.visits(step, self.config.samples_per_step)

    def sample_ids(self, step: int) -> list[str]:
        """The ids of all samples of a step, over all ranks, in order; nothing is decoded."""
        return [
            self.sources[number].reader.row(*self.sources[number].order.locate(visit))["id"]
            for number, visit in self.visits(self._at(step))
        ]

    def part(self, step: int, number: int) -> list[tuple[int, int]]:
        """(source, visit) of the samples of one batch of a step; those of all ranks are numbered through."""
        visits = self.visits(step)
        # By the visit, so that a rank meets few row groups; by the place where that leaves a batch without any.
        parts = [sum(visit) % self.num_parts for visit in visits]
        if len(set(parts)) < self.num_parts:
            parts = [place % self.num_parts for place in range(len(visits))]
        return [visit for visit, part in zip(visits, parts, strict=True) if part == number]

    def samples(self, step: int, microbatch: int = 0) -> Samples:
        """The documents of this rank's samples of a step; what cannot be used is noted and left out."""
        # Rank first: ranks take turns, whatever the number of micro-batches is.
        mine = self.part(step, microbatch * self.world_size + self.rank)
        if self._num_threads == 1 or not any(self._has_sound(*visit) for visit in dict(mine).items()):
            return self._samples(mine)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="decode")
        share = -(-len(mine) // self._num_threads)
        parts = self._pool.map(self._samples, [mine[n : n + share] for n in range(0, len(mine), share)])
        return reduce(Samples.extend, parts, Samples())

    def _has_sound(self, number: int, visit: int) -> bool:
        """Whether a source has sounds or videos, told by the first of its rows that is met."""
        if number not in self._with_sound:
            source = self.sources[number]
            row = source.reader.row(*source.order.locate(visit))
            self._with_sound[number] = any(row[c] for c in ("audio", "video", "audios", "videos"))
        return self._with_sound[number]

    def _samples(self, visits: list[tuple[int, int]]) -> Samples:
        out = Samples()
        for number, visit in visits:
            out.num_visits += 1
            source = self.sources[number]
            place = source.order.locate(visit)
            row = source.reader.row(*place)
            try:
                if "problems" in row:
                    raise ValueError("; ".join(row["problems"]))
                check_row(row)
                documents = self._documents(number, visit, place, row)
                longest = max(num_positions(d.segments) for d in documents)
                if longest > self.config.row_length:
                    raise OverBudgetError(f"{longest} tokens, a row has {self.config.row_length}")
            except OverBudgetError as error:
                out.over_budget.append((row["id"], str(error)))
            except ValueError as error:  # MediaError is one too
                out.bad.append((row["id"], str(error) or type(error).__name__))
            else:
                out.documents += documents
        return out

    def _documents(
        self, number: int, visit: int, place: tuple[int, int], row: Mapping[str, Any]
    ) -> list[Document]:
        source = self.sources[number]
        rng = self._draws.at(self.seed << 16 | number, visit)
        name, template = source.draw_template(rng)

        def decode(ordinal: int, kind: str, medium: Mapping[str, Any]) -> Arrays:
            return self._arrays.get(
                (number, *place, ordinal),
                lambda: decode_medium(
                    kind,
                    medium,
                    row["id"],
                    self.model,
                    max_frames=self.config.max_frames,
                    cut=source.config.cut,
                ),
            )

        sample = sample_of_row(
            row,
            self.model,
            rng=rng,
            strength=self.config.augment * source.config.augment,
            keep_pixels=source.config.keep_pixels,
            decode=decode,
        )
        return build_documents(
            sample,
            template,
            self.tokenizer,
            rng,
            pair_key=f"{number}/{visit}",
            condition_dropout=self.config.condition_dropout,
            media_dropout=self.config.media_dropout,
            task=f"{sample.source}/{name}",
        )

    def batch(self, step: int, microbatch: int = 0) -> Batch:
        """A batch of step ``step`` of this rank, with the bad samples it met (`note` counts them)."""
        found = self.samples(self._at(step), microbatch)
        if not found.documents and self.num_parts > 1:
            # The other batches of the step have samples: this one takes part with nothing to learn from.
            found.documents.append(Document([TextSegment([self.tokenizer.pad])]))
        if not found.documents:
            sample_id, reason = [*found.bad, *found.over_budget][0]
            raise ValueError(
                f"none of the {found.num_visits} samples of step {step} can be used; sample {sample_id!r}: {reason}; "
                + ("mend the data or name another template" if found.bad else "raise row_length or max_size")
            )
        batch = pack(found.documents, self.tokenizer, self.model, row_length=self.config.row_length)
        batch.num_visits, batch.bad, batch.over_budget = found.num_visits, found.bad, found.over_budget
        return batch

    def note(self, batch: Batch) -> None:
        """Count the samples that a batch left out, and log each id once.

        Raises:
            ValueError: too large a share of all samples so far is broken.
        """
        self.num_visits += batch.num_visits
        # What is too large is a choice of the recipe, what is broken is a fault of the data.
        kinds = ((self.over_budget, batch.over_budget, logging.INFO), (self.bad, batch.bad, logging.WARNING))
        for counter, left_out, level in kinds:
            for sample_id, reason in left_out:
                if sample_id not in counter:
                    log.log(level, "sample %s left out: %s", sample_id, reason)
                counter[sample_id] += 1
        total = sum(self.bad.values())
        if total > 20 and total > MAX_BAD_RATE * self.num_visits:
            sample_id, reason = (batch.bad or [(next(reversed(self.bad)), "see above")])[-1]
            raise ValueError(
                f"{total} of {self.num_visits} samples could not be used, the last one sample {sample_id!r}: {reason}; "
                "run `sensorium data check` on the data and mend them"
            )

    def stream(self, start_step: int, stop_step: int) -> Iterator[tuple[int, Batch]]:
        """(step, batch) from ``start_step`` on; the next batches are made in a thread or in processes meanwhile.

        A step comes ``num_microbatches`` times.
        """
        numbers = range(start_step * self.num_microbatches, stop_step * self.num_microbatches)
        batches = self._from_workers(numbers) if self.config.num_workers else self._from_thread(numbers)
        try:
            for number in numbers:
                batch = next(batches)
                self.note(batch)
                yield number // self.num_microbatches, batch
        finally:
            batches.close()

    def _from_thread(self, numbers: range) -> Any:
        ready: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
        wanted, stopped = threading.Semaphore(1), threading.Event()

        def work() -> None:
            try:
                for number in numbers:
                    wanted.acquire()  # one batch ahead, and no more memory
                    if stopped.is_set():
                        return
                    ready.put(self.batch(*divmod(number, self.num_microbatches)))
            except BaseException as error:  # handed to the consumer, which raises it
                ready.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            for _ in numbers:
                item = ready.get()
                wanted.release()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            wanted.release()
            thread.join()

    def _from_workers(self, numbers: range) -> Any:
        """Batches from processes, in order. Connections to object stores do not survive a fork: those spawn."""
        if numbers:
            self._at(numbers[0] // self.num_microbatches)  # looked for once, not by every process
        remote = any(source.reader.is_remote for source in self.sources)
        batches: Any = torch.utils.data.DataLoader(
            Batches(self),
            batch_size=None,
            sampler=numbers,
            num_workers=self.config.num_workers,
            worker_init_fn=start_worker,
            multiprocessing_context="spawn" if remote else None,
        )
        iterator = iter(batches)
        try:
            for batch in iterator:
                if isinstance(batch, ValueError):
                    raise batch
                yield map_arrays(batch, torch.from_numpy, np.ndarray)
        finally:
            # A traceback that is kept (Ctrl-C while waiting) would keep the iterator, and the exit of Python would
            # wait for good for processes that nobody has told to end.
            iterator._shutdown_workers()

    def _at(self, step: int) -> int:
        """Which step's samples come at ``step``: the largest of the first steps may change places with the first."""
        if not self.config.largest_first or step >= LARGEST_OF:
            return step
        if self._largest is None:
            sizes = [
                sum(num_positions(d.segments) for d in self._samples(self.visits(other)).documents)
                for other in range(LARGEST_OF)
            ]
            self._largest = int(np.argmax(sizes))
        return {0: self._largest, self._largest: 0}.get(step, step)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


class _Draws(threading.local):
    """The generator of a visit. Philox takes its key as it is, but making one asks the system for entropy first."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._state, self._rng = self._bits.state, np.random.Generator(self._bits)

    def __reduce__(self) -> Any:
        return _Draws, ()

    def at(self, *key: int) -> np.random.Generator:
        """The generator with this key, at its beginning; valid until this thread asks for the next."""
        self._state["state"]["key"][:] = key
        self._bits.state = self._state
        return self._rng


class _ArrayCache:
    """Decoded arrays, the least recently used ones dropped over a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._kept: OrderedDict[tuple[int, int, int, int], Arrays] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return _ArrayCache, (self.max_bytes,)  # another process begins with nothing kept

    def get(self, key: tuple[int, int, int, int], make: Callable[[], Arrays]) -> Arrays:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = make()
        with self._lock:
            if key not in self._kept:
                self.num_bytes += made.num_bytes
            self._kept[key] = made
            while self.num_bytes > self.max_bytes and self._kept:
                self.num_bytes -= self._kept.popitem(last=False)[1].num_bytes
        return made
