"""A block that is being drawn: its path from noise to signal, guidance, and what stays as it was."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sensorium.config import ModalityConfig
from sensorium.generate.requests import MediaOptions
from sensorium.generate.sampling import walk
from sensorium.generate.sequences import TokenSequence
from sensorium.sequence.packing import source_of


class Drawing:
    """One medium on its way from noise to signal.

    Whoever has time evaluates the velocity behind the branches in ``todo`` and hands it to ``take``.

    Args:
        branches: "full" (the prompt), "words" (without its words), "none" (without its media too).
        options: steps, solver, guidance and strength. generator: of the noise.
        source: array ``[C, H, W]`` to start from at ``options.strength``, and to keep outside ``mask``. Where the model
            copies from sources it is that of all branches with media; without it, the prompt's last one of its size is.
        mask: bool ``[H, W]``, True where it is drawn; elsewhere the signal follows the source's own straight
            path from the same noise, and ends as the source (as RePaint, arXiv 2201.09865, without resampling).
    """

    def __init__(
        self,
        modality: str,
        grid: tuple[int, int],
        config: ModalityConfig,
        options: MediaOptions,
        branches: Mapping[str, TokenSequence],
        *,
        generator: torch.Generator,
        source: Tensor | None = None,
        mask: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.modality, self.grid, self.options, self.branches = modality, grid, options, branches
        shape = (config.channels, grid[0] * config.patch[0], grid[1] * config.patch[1])
        noise = torch.randn(shape, generator=generator).to(device)
        noise = config.noise_scale * noise
        start = 0.0
        z = noise
        if source is not None:
            assert source.shape == shape
            source = source.to(device)
            start = 1 - options.strength
            z = start * source + (1 - start) * noise
        where = None if mask is None else mask.to(device)

        def pin(z: Tensor, t: float) -> Tensor:
            if where is None or source is None:
                return z
            return torch.where(where, z, t * source + (1 - t) * noise)

        self.sources: dict[str, Tensor | None] = dict.fromkeys(branches)
        if config.copies_source:
            behind = {
                name: source_of((modality, grid), (placed.segment for placed in sequence.media))
                for name, sequence in branches.items()
            }
            if behind["full"] is not None:
                copied = behind["full"].to(device) if source is None else source
                # A branch without media is asked what comes of the words alone.
                self.sources = {name: None if found is None else copied for name, found in behind.items()}

        share = 1.0 if source is None else options.strength
        num_steps = max(1, math.ceil(options.num_steps * share - 1e-9))  # 10 x 0.7 is a little over 7
        times = torch.linspace(start, 1, num_steps + 1).tolist()
        self.start, self.num_steps = start, num_steps
        self._path = walk(z, times, options.solver, pin)
        self.result: Tensor | None = None
        self.preview: Tensor | None = None  # the estimate of the clean signal, when it is time to show it
        self._shown = 0
        self._velocity: Tensor | None = None
        self._advance(None)

    @property
    def progress(self) -> float:
        """Share of the way, 1 when done."""
        return 1.0 if self.result is not None else (self.t - self.start) / (1 - self.start)

    def take(self, branch: str, velocity: Tensor) -> None:
        """Take the velocity behind a branch; with the last one, go on."""
        part = self.todo.pop(branch) * velocity
        self._velocity = part if self._velocity is None else self._velocity + part
        if self.todo:
            return
        estimate = self.z + (1 - self.t) * self._velocity
        self._advance(self._velocity)
        self._show(estimate)

    def _show(self, estimate: Tensor) -> None:
        """What the step just taken made of the clean signal is the preview, where one is due."""
        step = round(self.progress * self.num_steps)
        every = self.options.preview_every
        self.preview = None
        if every and self._shown < step < self.num_steps and step % every == 0:
            self._shown, self.preview = step, estimate

    def _advance(self, velocity: Tensor | None) -> None:
        try:
            self.z, self.t = next(self._path) if velocity is None else self._path.send(velocity)
        except StopIteration as end:
            self.result, self.todo = end.value, {}
            return
        self._velocity = None
        self.todo = self._coefficients()

    def _coefficients(self) -> dict[str, float]:
        """How much each branch's velocity counts at this noise level; those that count nothing are not evaluated.

        ``v(none) + s_media (v(words) - v(none)) + s_words (v(full) - v(words))`` (arXiv 2211.09800, equation 3),
        which is plain classifier-free guidance (arXiv 2207.12598) where media have no scale of their own.
        """
        low, high = self.options.guidance_interval
        words, media = self.options.guidance_scale, self.options.image_guidance_scale
        if not low <= self.t <= high:
            words = media = 1.0
        if "words" not in self.branches:
            words = 1.0
        if "none" not in self.branches:
            media = 1.0
        if "words" not in self.branches:  # the prompt has no words: it is its own wordless branch
            all_parts = {"full": media, "none": 1 - media}
        else:
            all_parts = {"full": words, "words": media - words, "none": 1 - media}
        return {name: value for name, value in all_parts.items() if value != 0}
