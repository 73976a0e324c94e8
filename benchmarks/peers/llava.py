"""A LLaVA-style build from ``transformers``: SigLIP's vision tower, a projector, a Qwen3 decoder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.config import ModelConfig, RunConfig
from sensorium.sequence.document import Document
from sensorium.sequence.tokenizer import Tokenizer

from .clip import mend_torchvision
from .work import Asked, arrays_of, picture_and_tokens


def build(
    config: ModelConfig, image_token: int, *, vision_layers: int, text_layers: int, mlp_dim: int
) -> Any:
    """``LlavaForConditionalGeneration`` of our widths, heads and patches; ``mlp_dim`` of the decoder."""
    mend_torchvision()  # transformers imports it where it is installed
    from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen3Config, SiglipVisionConfig

    image = config.modalities["image"]
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=SiglipVisionConfig(
                hidden_size=config.dim,
                intermediate_size=4 * config.dim,
                num_hidden_layers=vision_layers,
                num_attention_heads=config.num_heads,
                image_size=image.max_size[0],
                patch_size=image.patch[0],
                vision_use_head=False,
            ),
            text_config=Qwen3Config(
                vocab_size=config.vocab_size,
                hidden_size=config.dim,
                intermediate_size=mlp_dim,
                num_hidden_layers=text_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads,
                head_dim=config.head_dim,
                tie_word_embeddings=True,
                use_cache=False,
            ),
            image_token_index=image_token,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=True,
        )
    )


def padded(
    rows: Sequence[tuple[np.ndarray | None, Sequence[int], Sequence[bool]]],
    num_patches: int,
    image_token: int,
) -> dict[str, Tensor]:
    """Pictures, token ids and what is supervised -> the model's inputs, padded to the longest."""
    starts = [0 if picture is None else num_patches for picture, _, _ in rows]
    longest = max(start + len(ids) for start, (_, ids, _) in zip(starts, rows, strict=True))
    token_ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels, seen = torch.full_like(token_ids, -100), torch.zeros_like(token_ids)
    for row, (start, (_, ids, supervised)) in enumerate(zip(starts, rows, strict=True)):
        end = start + len(ids)
        token_ids[row, :start], seen[row, :end] = image_token, 1
        token_ids[row, start:end] = torch.tensor(ids)
        labels[row, start:end] = torch.where(torch.tensor(supervised), torch.tensor(ids), -100)
    inputs = {"input_ids": token_ids, "attention_mask": seen, "labels": labels}
    pictures = [picture for picture, _, _ in rows if picture is not None]
    return inputs | ({"pixel_values": torch.from_numpy(np.stack(pictures))} if pictures else {})


class Llava:
    """The build as a learner: names and answers."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.image_token = tokenizer.open_token("image")
        rows, cols = config.model.modalities["image"].max_grid
        self.num_patches = rows * cols
        mlp_dim = config.model.mlp_dim
        self.model = build(config.model, self.image_token, vision_layers=2, text_layers=3, mlp_dim=mlp_dim)

    def collate(self, documents: Sequence[Document]) -> dict[str, Tensor]:
        """Padded inputs."""
        rows = [picture_and_tokens(document, self.tokenizer) for document in documents]
        return padded(rows, self.num_patches, self.image_token)

    def loss(self, batch: dict[str, Tensor], seed: int) -> Tensor:
        """Next-token cross-entropy of supervised tokens."""
        return self.model(**batch).loss

    def flops(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """The shape: rows, longest, pictures."""
        return (*batch["input_ids"].shape, len(batch.get("pixel_values", ())))

    def answers(self, row: str, asked: Asked) -> dict[str, np.ndarray]:
        """Names and answers, the likeliest token each time."""
        named = [([self.tokenizer.emb], array) for array in arrays_of(asked.pictures, self.config)]
        ids = [[*self.tokenizer.encode(text), self.tokenizer.assistant] for text in asked.questions]
        seen = zip(ids, arrays_of(asked.question_pictures, self.config), strict=True)
        return {
            "names": self._say(named),
            "answers": self._say(list(seen)),
            "blind": self._say([(each, None) for each in ids]),
        }

    def _say(self, prompts: Sequence[tuple[list[int], np.ndarray | None]]) -> np.ndarray:
        """Prompts of one length go together, so that nothing is padded."""
        said = [""] * len(prompts)
        for length in {len(ids) for ids, _ in prompts}:
            places = [n for n, (ids, _) in enumerate(prompts) if len(ids) == length]
            rows = [(prompts[n][1], prompts[n][0], [False] * length) for n in places]
            inputs = padded(rows, self.num_patches, self.image_token)
            del inputs["labels"]
            out = self.model.generate(
                **inputs,
                max_new_tokens=12,
                do_sample=False,
                use_cache=True,
                eos_token_id=self.tokenizer.eos,
                pad_token_id=self.tokenizer.pad,
            )
            for place, ids in zip(places, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                end = ids.index(self.tokenizer.eos) if self.tokenizer.eos in ids else len(ids)
                said[place] = self.tokenizer.decode(ids[:end])
        return np.array(said, dtype=np.str_)
