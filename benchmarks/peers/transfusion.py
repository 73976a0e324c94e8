"""``transfusion-pytorch``: text, then the patches of a picture, by its own defaults."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.config import RunConfig
from sensorium.media.image import denormalize_image
from sensorium.media.modality import patchify
from sensorium.sequence.document import Document, TextSegment
from sensorium.sequence.tokenizer import Tokenizer

from .work import Asked, picture_and_tokens


def build(
    vocab_size: int, patch_dim: int, grid: tuple[int, ...], transformer: dict[str, int], **options: Any
) -> Any:
    """``Transfusion`` that draws ``grid`` patches of ``patch_dim`` values."""
    from transfusion_pytorch import Transfusion

    return Transfusion(
        num_text_tokens=vocab_size,
        dim_latent=patch_dim,
        modality_default_shape=grid,
        transformer=transformer,
        **options,
    )


class Transfusion:
    """The model of our size as a learner: names to pictures."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        image = config.model.modalities["image"]
        self.tokenizer, self.grid, self.patch = tokenizer, image.max_grid, image.patch
        size = {"dim": 80, "depth": 3, "dim_head": 32, "heads": 4}  # the nearest to ours
        self.model = build(config.model.vocab_size, image.patch_dim, self.grid, size, add_pos_emb=True)

    def collate(self, documents: Sequence[Document]) -> list[list[Tensor]]:
        """Of each document the words of its condition, then patches ``[rows, cols, values]``."""
        out = []
        for document in documents:
            picture, _, _ = picture_and_tokens(document, self.tokenizer)
            assert picture is not None
            words = [s for s in document.segments if isinstance(s, TextSegment) and not s.supervised]
            ids = [token for segment in words for token in segment.token_ids]
            patches = torch.from_numpy(patchify(picture, self.patch)[0]).reshape(*self.grid, -1)
            out.append([torch.tensor(ids, dtype=torch.int64), patches])
        return out

    def loss(self, batch: list[list[Tensor]], seed: int) -> Tensor:
        """Next-token and flow loss while it trains; of held-out pictures the flow loss alone."""
        torch.manual_seed(seed)
        if self.model.training:
            return self.model(batch)
        _, parts = self.model(batch, return_breakdown=True)
        return parts.flow[0]

    def flops(self, batch: list[list[Tensor]]) -> tuple[int, ...]:
        """The shape: rows, longest text."""
        return len(batch), max(len(ids) for ids, _ in batch)

    def answers(self, row: str, asked: Asked) -> dict[str, np.ndarray]:
        """A picture of each name by its own sampler: 16 steps of midpoint, guidance 3."""
        torch.manual_seed(0)
        pictures = []
        for start in range(0, len(asked.names), 64):
            prompts = [torch.tensor(self.tokenizer.encode(n)) for n in asked.names[start : start + 64]]
            drawn = self.model.sample_many(
                prompts,
                force_modality_at_start=(0, self.grid),
                fixed_modality_shape=self.grid,
                return_without_prompt=True,
                max_length=1,
            )
            pictures += [self._pixels(sample) for sample in drawn]
        return {"pictures": np.stack(pictures)}

    def _pixels(self, sample: list[Any]) -> np.ndarray:
        patches = next(part[1] for part in sample if isinstance(part, tuple)).float().numpy()
        (rows, cols), (height, width) = self.grid, self.patch
        blocks = patches.reshape(rows, cols, 3, height, width).transpose(2, 0, 3, 1, 4)
        return denormalize_image(blocks.reshape(3, rows * height, cols * width))
