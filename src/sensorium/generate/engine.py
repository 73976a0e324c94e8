"""Prefill, decode and denoise on one cache: what every way of generating is made of.

A batch's rows have lengths of their own, so prompts of any length run together and give what they give alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sensorium.generate.sampling import integrate, sample_token
from sensorium.media.modality import get_modality
from sensorium.model.flow import to_clean, velocity
from sensorium.model.kv_cache import KVCache
from sensorium.model.sensorium import Sensorium
from sensorium.sequence.document import Document, Segment, TextSegment, num_positions
from sensorium.sequence.mask import attention_mask
from sensorium.sequence.packing import Batch, MediaBatch, pack
from sensorium.sequence.tokenizer import Tokenizer


@dataclass
class State:
    """Where a batch of sequences stands.

    Args:
        cache: keys and values of everything so far.
        hidden_BD: hidden state of each row's last token, which predicts the next one.
        position_B: three-axis position (p, p, p) of the next token.
    """

    cache: KVCache
    hidden_BD: Tensor
    position_B: Tensor


@dataclass(frozen=True)
class TextOptions:
    """How text is sampled; ``seed`` makes a request repeatable, alone or in a batch."""

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True)
class MediaOptions:
    """How media are sampled.

    Args:
        num_steps: of the solver. guidance_scale: 1 is the plain conditional model.
        guidance_interval: noise levels in which guidance acts (arXiv 2404.07724).
        grid: patches along height and width; None lets the model choose by its size tokens.
    """

    num_steps: int = 30
    guidance_scale: float = 2.5
    guidance_interval: tuple[float, float] = (0.1, 1.0)
    solver: Literal["euler", "heun"] = "euler"
    grid: tuple[int, int] | None = None
    seed: int = 0


class Engine:
    """Batched generation with one model."""

    def __init__(self, model: Sensorium, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[Segment]], *, room: int) -> State:
        """Run prompts through the trunk; ``room`` more positions will fit into the cache."""
        batch = self._batch(prompts)
        B, T = batch.token_ids_BT.shape
        cache = KVCache(self.model.config.num_layers, B, T + room)
        cache.begin((batch.doc_id_BT >= 0).sum(dim=1))
        mask = attention_mask(batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)
        hidden = self.model.trunk(self.model.embed(batch, {}), batch.positions_BT3, mask, None, cache)
        cache.commit()
        return State(cache, hidden.flatten(0, 1)[batch.last_D], batch.end_position_D)

    @torch.inference_mode()
    def embed(self, prompts: Sequence[Sequence[Segment]]) -> Tensor:
        """Unit latents ``[n, L]`` of prompts that end in ``<emb>``."""
        batch = self._batch(prompts)
        mask = attention_mask(batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)
        hidden = self.model.trunk(self.model.embed(batch, {}), batch.positions_BT3, mask)
        return self.model.latents(hidden.flatten(0, 1)[batch.emb_D])

    def _batch(self, prompts: Sequence[Sequence[Segment]]) -> Batch:
        longest = max(num_positions(p) for p in prompts)
        limit = self.model.config.max_position
        if longest > limit:
            raise ValueError(
                f"the prompt has {longest} tokens and the model takes {limit}; shorten it or send less media"
            )
        return pack(
            [Document(p) for p in prompts],
            self.tokenizer,
            self.model.config,
            row_length=longest,
            one_per_row=True,
        )

    @torch.inference_mode()
    def decode_step(self, state: State, token_ids_B: Tensor) -> State:
        """Append one token to every row."""
        cache, B = state.cache, len(token_ids_B)
        cache.begin(torch.ones(B, dtype=torch.int64))
        mask = (torch.arange(cache.end)[None] <= cache.lengths_B[:, None])[:, None, None]
        positions = state.position_B[:, None, None].expand(B, 1, 3)
        embeds = self.model.embed_tokens(token_ids_B)[:, None]
        hidden = self.model.trunk(embeds, positions, mask, None, cache)
        cache.commit()
        return State(cache, hidden[:, 0], state.position_B + 1)

    def generate_text(
        self, prompts: Sequence[Sequence[Segment]], options: TextOptions
    ) -> Iterator[list[int | None]]:
        """Yield one list per step with the new token of each row, None for rows that have ended."""
        state = self.prefill(prompts, room=options.max_tokens)
        generators = [torch.Generator().manual_seed(options.seed) for _ in prompts]
        ended = [False] * len(prompts)
        for number in range(options.max_tokens):
            logits_BV = self._text_logits(state)
            step: list[int | None] = []
            for row, generator in enumerate(generators):
                token = (
                    self.tokenizer.eos
                    if ended[row]
                    else sample_token(
                        logits_BV[row],
                        temperature=options.temperature,
                        top_p=options.top_p,
                        top_k=options.top_k,
                        generator=generator,
                    )
                )
                ended[row] = ended[row] or token == self.tokenizer.eos
                step.append(None if ended[row] else token)
            if all(ended):
                return
            yield step
            if number + 1 < options.max_tokens:
                state = self.decode_step(
                    state, torch.tensor([self.tokenizer.eos if t is None else t for t in step])
                )

    @torch.inference_mode()
    def _text_logits(self, state: State) -> Tensor:
        """Logits of text and of the end; opening and size tokens belong to media, the rest to the prompt."""
        logits_BV = self.model.logits(state.hidden_BD)
        end = logits_BV[:, self.tokenizer.eos].clone()
        logits_BV[:, : self.tokenizer.size_token(255) + 1] = -torch.inf
        logits_BV[:, self.tokenizer.eos] = end
        return logits_BV

    @torch.inference_mode()
    def generate_media(
        self,
        modality: str,
        prompts: Sequence[Sequence[Segment]],
        unconditional: Sequence[Sequence[Segment]],
        options: MediaOptions,
    ) -> list[Tensor]:
        """One array ``[C, H, W]`` per prompt.

        Args:
            unconditional: what guidance moves away from, one for each prompt.
        """
        config = self.model.config.modalities[modality]
        grids = (
            [self._check_grid(modality, options.grid)] * len(prompts)
            if options.grid
            else self.choose_grids(modality, prompts)
        )
        guided = options.guidance_scale != 1.0
        rows = [*prompts, *unconditional] if guided else list(prompts)
        opened = [[*row, self._shape(modality, grids[i % len(prompts)])] for i, row in enumerate(rows)]
        state = self.prefill(opened, room=max(h * w for h, w in grids))
        media = _blank_media(grids, config.channels, config.patch)
        z = torch.zeros_like(media.arrays_NCHW)
        for n, (h, w) in enumerate(grids):
            size = (config.channels, h * config.patch[0], w * config.patch[1])
            noise = torch.randn(size, generator=torch.Generator().manual_seed(options.seed))
            z[n, :, : size[1], : size[2]] = config.noise_scale * noise

        def slope(z_NCHW: Tensor, t: float) -> Tensor:
            low, high = options.guidance_interval
            if not guided:
                return self._velocity(modality, state, grids, z_NCHW, t)
            both = self._velocity(modality, state, grids * 2, torch.cat([z_NCHW, z_NCHW]), t)
            with_text, without = both.chunk(2)
            scale = options.guidance_scale if low <= t <= high else 1.0
            return without + scale * (with_text - without)

        z = integrate(slope, z, num_steps=options.num_steps, solver=options.solver)
        return [z[n, :, : h * config.patch[0], : w * config.patch[1]] for n, (h, w) in enumerate(grids)]

    def _velocity(
        self, modality: str, state: State, grids: Sequence[tuple[int, int]], z_NCHW: Tensor, t: float
    ) -> Tensor:
        """Velocity of the noisy blocks behind each row's prompt; the cache is left as it was."""
        config = self.model.config
        modality_config = config.modalities[modality]
        media = _blank_media(grids, modality_config.channels, modality_config.patch)
        num_new = media.num_patches_N
        B, T = len(grids), int(num_new.max())
        t_N = torch.full((B,), t)
        head: Any = self.model.media_heads[modality]
        x_BTD = z_NCHW.new_zeros(B * T, config.dim)
        x_BTD = x_BTD.index_copy(0, media.token_index_P, head.embed(z_NCHW, t_N, media)).view(B, T, -1)
        offsets = torch.zeros(B * T, 3, dtype=torch.int64)
        offsets[media.token_index_P] = torch.cat([_offsets(modality, grid) for grid in grids])
        positions = state.position_B[:, None, None] + offsets.view(B, T, 3)
        cache = state.cache
        cache.begin(num_new)
        mask = (torch.arange(cache.end)[None] < (cache.lengths_B + num_new)[:, None])[:, None, None]
        hidden = self.model.trunk(x_BTD, positions, mask, torch.ones(B, T, dtype=torch.bool), cache)
        prediction = self.model.predict(modality, hidden.flatten(0, 1)[media.token_index_P], media)
        return velocity(to_clean(prediction, z_NCHW, t_N, config.target), z_NCHW, t_N)

    @torch.inference_mode()
    def choose_grids(self, modality: str, prompts: Sequence[Sequence[Segment]]) -> list[tuple[int, int]]:
        """The sizes that the model itself gives, as next tokens; only sizes it can draw are allowed."""
        limits = self.model.config.modalities[modality].max_grid
        axes = limits if limits[1] > 1 else limits[:1]
        opening = TextSegment([self.tokenizer.open_token(modality)])
        state = self.prefill([[*p, opening] for p in prompts], room=len(axes))
        sizes = []
        for limit in axes:
            low = self.tokenizer.size_token(1)
            choice = self.model.logits(state.hidden_BD)[:, low : low + limit].argmax(dim=1)
            sizes.append((choice + 1).tolist())
            state = self.decode_step(state, low + choice)
        return [(size[0], size[1] if len(axes) > 1 else 1) for size in zip(*sizes, strict=True)]

    def _check_grid(self, modality: str, grid: tuple[int, int]) -> tuple[int, int]:
        limits = self.model.config.modalities[modality].max_grid
        if any(not 1 <= size <= limit for size, limit in zip(grid, limits, strict=True)):
            raise ValueError(
                f"{modality} of {grid[0]} x {grid[1]} patches; this model draws 1 to {limits[0]} x 1 to "
                f"{limits[1]}"
            )
        return grid

    def _shape(self, modality: str, grid: tuple[int, int]) -> TextSegment:
        sizes = grid if self.model.config.modalities[modality].max_grid[1] > 1 else grid[:1]
        return TextSegment(
            [self.tokenizer.open_token(modality), *(self.tokenizer.size_token(s) for s in sizes)]
        )


def _blank_media(grids: Sequence[tuple[int, int]], channels: int, patch: tuple[int, int]) -> MediaBatch:
    """The frame of noisy blocks that stand at the start of rows of their own."""
    height, width = max(h for h, _ in grids), max(w for _, w in grids)
    longest = max(h * w for h, w in grids)
    index = torch.cat([row * longest + torch.arange(h * w) for row, (h, w) in enumerate(grids)])
    arrays = torch.zeros(len(grids), channels, height * patch[0], width * patch[1])
    return MediaBatch(arrays, torch.tensor(grids), index)


def _offsets(modality: str, grid: tuple[int, int]) -> Tensor:
    return torch.as_tensor(get_modality(modality).offsets(grid))
