"""``open_clip``: two towers and the softmax loss, as ``open_clip`` trains them."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.config import RunConfig
from sensorium.sequence.document import Document
from sensorium.sequence.tokenizer import Tokenizer

from .work import PATCH, SIDE, STYLES, Asked, arrays_of, picture_and_tokens, rows_of


def mend_torchvision() -> None:
    """Let torchvision be imported beside a PyTorch without CUDA.

    Its operators come compiled against CUDA; without them its import stops at two that it registers shapes for.
    Nothing here uses them, so it is enough to say that they exist.
    """
    try:
        import torchvision
    except ImportError:  # who needs it will say so
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        import torchvision  # noqa: F401


class OpenClip:
    """``open_clip.model.CLIP`` of our size as a learner."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        mend_torchvision()
        from open_clip.loss import ClipLoss
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

        names = [row["text"] for style in STYLES for row in rows_of(style, "train")]
        self.config, self.tokenizer, width = config, tokenizer, config.model.dim
        self.context_length = max(len(tokenizer.encode(name)) for name in names) + 1
        self.model: Any = CLIP(
            config.model.latent_dim,
            CLIPVisionCfg(layers=3, width=width, head_width=32, patch_size=PATCH, image_size=SIDE),
            CLIPTextCfg(
                context_length=self.context_length,
                vocab_size=config.model.vocab_size,
                width=width,
                heads=4,
                layers=2,
                pool_type="eos",
                eos_id=tokenizer.eos,
                pad_id=tokenizer.pad,
            ),
        )
        self.contrast = ClipLoss()

    def collate(self, documents: Sequence[Document]) -> tuple[Tensor, Tensor]:
        """Pictures ``[n, 3, 32, 32]`` and the tokens of their names ``[n, context]``."""
        pictures: dict[str, np.ndarray] = {}
        texts: dict[str, list[int]] = {}
        for document in documents:
            picture, ids, _ = picture_and_tokens(document, self.tokenizer)
            if picture is None:
                texts[document.pair_key] = ids[:-1]  # the last one is <emb>
            else:
                pictures[document.pair_key] = picture
        assert pictures.keys() == texts.keys()
        return torch.from_numpy(np.stack(list(pictures.values()))), self._padded([texts[k] for k in pictures])

    def _padded(self, texts: Sequence[Sequence[int]]) -> Tensor:
        tokens = torch.full((len(texts), self.context_length), self.tokenizer.pad)
        for row, ids in enumerate(texts):
            cut = [*ids[: self.context_length - 1], self.tokenizer.eos]
            tokens[row, : len(cut)] = torch.tensor(cut)
        return tokens

    def loss(self, batch: tuple[Tensor, Tensor], seed: int) -> Tensor:
        """The softmax loss; the scale is held below 100 as its training script does."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        pictures, texts, scale = self.model(*batch)
        return self.contrast(pictures, texts, scale)

    def flops(self, batch: tuple[Tensor, Tensor]) -> tuple[int, ...]:
        """The shape."""
        return tuple(batch[0].shape)

    def answers(self, row: str, asked: Asked) -> dict[str, np.ndarray]:
        """Similarity of pictures and names."""
        arrays = torch.from_numpy(arrays_of(asked.pictures, self.config))
        pictures = self.model.encode_image(arrays, normalize=True)
        names = [self.tokenizer.encode(name) for name in asked.names]
        texts = self.model.encode_text(self._padded(names), normalize=True)
        return {"similarity": (pictures @ texts.T).numpy()}
