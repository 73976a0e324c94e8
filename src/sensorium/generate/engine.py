"""The one engine: every way of generating is a request that it serves, step by step.

See ``scheduler`` for who comes when. Several threads may submit and cancel; one at a time runs a step.
"""

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sensorium.generate.constraining import Grammar
from sensorium.generate.handle import Handle, OnEvent
from sensorium.generate.job import Job, check_grid
from sensorium.generate.prompt import transcript
from sensorium.generate.reading import Reader, Runtime
from sensorium.generate.requests import Answer, Request
from sensorium.generate.runtime import InferenceRuntime
from sensorium.generate.scheduler import EngineConfig, Scheduler
from sensorium.generate.sequences import FeatureCache, PrefixCache, TokenSequence
from sensorium.generate.spelling import Spelled, Vocabulary
from sensorium.generate.writing import Writer, token_bytes
from sensorium.model.kv_cache import KVCache
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document, MediaSegment, Segment, num_positions
from sensorium.sequence.mask import attention_mask
from sensorium.sequence.packing import Batch, pack
from sensorium.sequence.tokenizer import Tokenizer

MAX_ANSWERS = 1024  # of one request


class Engine:
    """Batched generation with one model.

    Args:
        model: in evaluation mode. tokenizer: that it was trained with.
        config: budgets and shares.
        runtime: what runs the trunk and the logits; the model itself by default.
        clock: seconds, by which time is shared and told.
    """

    def __init__(
        self,
        model: Sensorium,
        tokenizer: Tokenizer,
        config: EngineConfig | None = None,
        runtime: Runtime | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.config = config or EngineConfig()
        self.clock = clock
        self.runtime: Runtime = runtime or model
        device = model.embed_tokens.weight.device
        self.cache = KVCache(model.config.num_layers, max_tokens=self.config.cache_tokens, device=device)
        self.features = FeatureCache(self.config.feature_patches)
        self.prefixes = PrefixCache(self.config.prefix_tokens)
        self.reader = Reader(model, self.runtime, self.cache, self.features)
        self.scheduler = Scheduler(self.config, self.cache, self.prefixes)
        self._token_bytes = token_bytes(tokenizer, model.config.vocab_size)
        self._vocabulary = Vocabulary(self._token_bytes)
        self._is_text_V = torch.tensor([bool(b) for b in self._token_bytes], device=device)
        self._weights = self._versions()
        self._inbox: deque[Job] = deque()
        self._numbers = itertools.count()
        self._lock = threading.RLock()  # whoever holds it runs the model
        self._guests: deque[None] = deque()  # who waits for the lock, beside the thread that runs
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closing = False

    # Requests

    def submit(self, request: Request, on_event: OnEvent | None = None) -> Handle:
        """Queue a request.

        Raises:
            ValueError: the prompt or the size is more than the model or the budget can take, or a constraint is not
                valid.
        """
        return self.queue(self.prepare(request, on_event))

    def prepare(self, request: Request, on_event: OnEvent | None = None) -> list[Job]:
        """The answers of a request, checked as ``submit`` does and not yet queued."""
        self._check(request)
        handle = Handle(self, request, on_event)
        jobs = [self._job(handle, index) for index in range(request.n)]
        handle.answers = [job.answer for job in jobs]
        return jobs

    def queue(self, jobs: Sequence[Job]) -> Handle:
        """Queue the answers of one request."""
        handle = jobs[0].handle
        handle.submitted_s = self.clock()
        self._inbox.extend(jobs)
        self.wake()
        return handle

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Serve several requests together; the answers of each stand one after the other."""
        handles: list[Handle] = []
        try:
            handles.extend(map(self.submit, requests))  # one by one: those before a refused one are cancelled
            return [answer for handle in handles for answer in handle.results()]
        finally:
            for handle in handles:
                if not handle.is_done:
                    handle.cancel()

    @property
    def num_running(self) -> int:
        """Answers that have a place."""
        return len(self.scheduler.active)

    @property
    def num_waiting(self) -> int:
        """Answers that wait for one."""
        return len(self.scheduler.waiting) + len(self._inbox)

    # Running

    @contextmanager
    def _computing(self) -> Iterator[None]:
        # A caller's autocast would send matrices to kernels that do not know how ours are laid out.
        with torch.inference_mode(), torch.autocast(self.reader.device.type, enabled=False):
            yield

    def step(self) -> bool:
        """One iteration of the loop; False where there was nothing to do."""
        with self._lock, self._computing():
            try:
                return self._step()
            except BaseException as error:
                # Something that all share has failed: nobody is left waiting for it.
                for job in [*self.scheduler.active, *self.scheduler.waiting]:
                    job.finish("error", error)
                    self.scheduler.release(job)
                raise

    def start(self) -> None:
        """Run in a thread of its own until ``close``."""
        if self._thread is None:
            self._is_closing = False
            self._thread = threading.Thread(target=self._run, name="sensorium-engine", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; what was not finished is cancelled."""
        self._is_closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock, torch.inference_mode():
            self._take_inbox()
            for job in [*self.scheduler.active, *self.scheduler.waiting]:
                self._end(job, "cancelled")

    def __enter__(self) -> "Engine":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether a thread runs it."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Tell the thread that there is something to do."""
        self._wake.set()

    @torch.inference_mode()
    def embed(self, prompts: Sequence[Sequence[Segment]]) -> Tensor:
        """Unit latents ``[n, L]`` of prompts that end in ``<emb>``; waits for the step that is being run."""
        batch = self._batch(prompts).to(self.reader.device)
        mask = attention_mask(batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)
        self._guests.append(None)
        try:
            with self._lock, self._computing():
                self._check_weights()
                hidden = self.runtime.trunk(self.model.embed(batch, {}), batch.positions_BT3, mask)
                return self.model.latents(hidden.flatten(0, 1)[batch.emb_D])
        finally:  # Ctrl-C may come while it waits
            self._guests.pop()

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.clear()
            # A lock is not fair: without this, the thread would take it again and again.
            while self._guests and not self._is_closing:
                time.sleep(0.0005)
            try:
                busy = self.step()
            except Exception:  # every answer has been told
                continue
            if not busy:
                self._wake.wait()

    def _step(self) -> bool:
        scheduler = self.scheduler
        self._take_inbox()
        for job in [*scheduler.active, *scheduler.waiting]:
            if job.handle.is_cancelled:
                self._end(job, "cancelled")
        scheduler.make_room()
        now = self.clock()
        for job in scheduler.admit():
            if not job.answer.queued_s:
                job.answer.queued_s = now - job.handle.submitted_s
                job.answer.num_cached_tokens = job.main.num_reused
        if not scheduler.active:
            if not scheduler.waiting:
                return False
            # The oldest has all the room there is: if that is too little now, it always will be.
            job = scheduler.waiting[0]
            self._end(
                job,
                "error",
                ValueError(
                    f"the answer needs {len(job.sequences)} x {job.length} positions and the cache holds "
                    f"{self.config.cache_tokens}; shorten the prompt, lower max_tokens or raise cache_tokens"
                ),
            )
            return True
        chunks = scheduler.reading()
        if chunks:
            self.reader.read(chunks)
        self._decode()
        between = self.clock()
        if scheduler.may_denoise():
            self._denoise()
        scheduler.account(between - now, self.clock() - between)
        return True

    def _decode(self) -> None:
        """A token for every row of text; those that go on read it at once."""
        jobs = self.scheduler.decoding()
        if not jobs:
            return
        logits_BV = self.reader.logits([job.main for job in jobs])
        for job, logits_V in zip(jobs, logits_BV, strict=True):
            try:
                job.take(logits_V)
            except Exception as error:  # its own fault: the others go on
                self._end(job, "error", error)
            if job.is_done:
                self.scheduler.release(job)
        self.scheduler.make_room()
        going_on = [job.main for job in jobs if job.main.row is not None and job.main.num_unread == 1]
        if going_on:
            self.reader.read([(s, 1) for s in self.scheduler.neighbours(going_on)])

    def _denoise(self) -> None:
        items = self.scheduler.denoising()
        if not items:
            return
        items.sort(key=lambda item: item[0].branches[item[1]].row or 0)
        self.reader.denoise(items[0][0].modality, items)
        drawings = {id(drawing) for drawing, _ in items}
        for job in list(self.scheduler.active):
            if id(job.drawing) in drawings:
                job.take_velocities()
                if job.is_done:
                    self.scheduler.release(job)
                else:
                    self.scheduler.trim(job)

    def _end(self, job: Job, reason: Any, error: BaseException | None = None) -> None:
        job.finish(reason, error)
        self.scheduler.release(job)

    def _take_inbox(self) -> None:
        if not self._inbox:
            return
        self._check_weights()
        while self._inbox:
            self.scheduler.waiting.append(self._inbox.popleft())

    def _versions(self) -> int:
        return sum(parameter._version for parameter in self.model.parameters())

    def _check_weights(self) -> None:
        """Training in place changes tensors' versions: what was computed with other weights must not be used."""
        versions = self._versions()
        if versions == self._weights:
            return
        self._weights = versions
        self.prefixes.clear()
        self.features.clear()
        if isinstance(self.runtime, InferenceRuntime):
            self.runtime.refresh()

    # What a request is made of

    def _job(self, handle: Handle, index: int) -> Job:
        request = handle.request
        main = TokenSequence(self.tokenizer, request.prompt)
        writer = None
        if request.output in ("text", "interleaved"):
            options = request.text
            constrained = bool(options.choices or options.regex or options.json_schema)
            read = [t for s in request.prompt if hasattr(s, "token_ids") for t in s.token_ids]
            writer = Writer(
                options,
                options.seed + index,
                self.tokenizer,
                self._token_bytes,
                self._allowed(request),
                read,
                Grammar(options, self.tokenizer, self.model.config.vocab_size) if constrained else None,
                self._spelled(request),
            )
        return Job(handle, index, next(self._numbers), self.model.config, self.tokenizer, main, writer)

    def _spelled(self, request: Request) -> Spelled | None:
        wanted = transcript(request.prompt, self.tokenizer) if request.text.spelling else None
        if wanted is None or wanted[0].modality not in self.model.spellers:
            return None
        return Spelled(self._vocabulary, self.tokenizer.eos, wanted[1])

    def _allowed(self, request: Request) -> Tensor:
        """Tokens that an answer may hold: text, its end, and what the request asks for; never other control tokens."""
        allowed_V = self._is_text_V.clone()
        allowed_V[[self.tokenizer.eos, *request.text.stop_tokens]] = True
        if request.output == "interleaved":
            for modality in self.model.config.modalities:
                allowed_V[self.tokenizer.open_token(modality)] = True
        return allowed_V

    def _check(self, request: Request) -> None:
        """Refuse what could never be served."""
        config = self.model.config
        known = ("text", "interleaved", *config.modalities)
        if request.output not in known:
            raise ValueError(
                f"output {request.output!r} is unknown to this model; it gives {', '.join(known)}"
            )
        if not 1 <= request.n <= MAX_ANSWERS:
            raise ValueError(f"n is {request.n}; expected 1 to {MAX_ANSWERS}")
        for token in request.text.stop_tokens:
            if not 0 <= token < config.vocab_size:
                raise ValueError(
                    f"stop_tokens holds {token}; the model's ids go from 0 to {config.vocab_size - 1}"
                )
        for segment in request.prompt:
            if isinstance(segment, MediaSegment) and segment.modality not in config.modalities:
                raise ValueError(f"the model has no modality {segment.modality!r}; remove the medium")
        prompts = (request.prompt, request.without_words, request.without_media)
        length = max(num_positions(prompt) for prompt in prompts if prompt is not None)
        block, num_rows = 0, 1
        if request.output != "text":
            modality = request.output if request.output != "interleaved" else ""
            if request.media.grid is not None and modality:
                check_grid(config, modality, request.media.grid)
                block = math.prod(request.media.grid)
            else:
                block = max(
                    math.prod(m.max_grid) for n, m in config.modalities.items() if modality in ("", n)
                )
            block += 3  # what opens it, and its sizes
            num_rows = 1 + (request.without_words is not None) + (request.without_media is not None)
        if length > config.max_position:
            raise ValueError(
                f"the prompt has {length} tokens and the model takes {config.max_position}; shorten it or send less media"
            )
        longest = length + block
        if request.output in ("text", "interleaved"):
            longest = min(length + request.text.max_tokens, config.max_position) + block
        if num_rows * longest > self.config.cache_tokens or num_rows > self.config.max_rows:
            raise ValueError(
                f"the request may need {num_rows} x {longest} positions and the cache holds "
                f"{self.config.cache_tokens}; shorten the prompt, lower max_tokens or raise cache_tokens"
            )

    def _batch(self, prompts: Sequence[Sequence[Segment]]) -> Batch:
        longest = max(num_positions(p) for p in prompts)
        limit = self.model.config.max_position
        if longest > limit:
            raise ValueError(
                f"the prompt has {longest} tokens and the model takes {limit}; shorten it or send less media"
            )
        documents = [Document(p) for p in prompts]
        return pack(documents, self.tokenizer, self.model.config, row_length=longest, one_per_row=True)
