"""A model as CLIP_benchmark takes one: ``encode_image`` and ``encode_text``, a transform, a tokenizer."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image as pillow
from torch import Tensor

from sensorium.generate.interface import Model, load
from sensorium.generate.prompt import read_parts
from sensorium.media.modality import get_modality
from sensorium.media.parts import Image
from sensorium.sequence.document import EmbSegment, MediaSegment, Segment, TextSegment

PADDING = -1  # behind the ids of a text; no token has it


class ClipModel:
    """What CLIP_benchmark calls the model. Vectors are those of ``Model.embed``.

    Args:
        model: that reads pictures.

    Raises:
        ValueError: the model has no pictures.
    """

    def __init__(self, model: Model) -> None:
        if "image" not in model.config.model.modalities:
            raise ValueError(
                f"{model!r} reads no pictures, and CLIP_benchmark needs them; choose another model"
            )
        self.model = model
        self.image = model.config.model.modalities["image"]

    def eval(self) -> "ClipModel":
        """It always is in evaluation mode."""
        return self

    def transform(self, picture: pillow.Image) -> Tensor:
        """A picture -> float32 ``[3, H, W]`` in [-1, 1], of the model's size."""
        modality = get_modality("image")
        return torch.from_numpy(modality.to_array(modality.read(Image(picture)), self.image))

    def tokenizer(self, texts: str | Sequence[str]) -> Tensor:
        """Texts -> int64 ``[n, T]``, filled up with -1.

        Raises:
            ValueError: a text is empty.
        """
        config, tokenizer = self.model.config.model, self.model.tokenizer
        rows = []
        for text in [texts] if isinstance(texts, str) else texts:
            (segment,) = read_parts(text, config, tokenizer)
            assert isinstance(segment, TextSegment)
            rows.append(torch.tensor(segment.token_ids))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)

    def encode_image(self, images_NCHW: Tensor) -> Tensor:
        """Pictures as ``transform`` makes them -> unit vectors, float32 ``[N, latent_dim]``, on the same device.

        Raises:
            ValueError: pictures of another size: made by another model's transform.
        """
        grid, shape = self.image.max_grid, (self.image.channels, *self.image.max_size)
        if images_NCHW.shape[1:] != shape:
            raise ValueError(
                f"pictures of shape {tuple(images_NCHW.shape[1:])}; expected {shape}: use the transform that load_clip "
                "returns"
            )
        arrays = images_NCHW.float().cpu().numpy()
        return self._embed([MediaSegment("image", array, grid) for array in arrays], images_NCHW)

    def encode_text(self, token_ids_NT: Tensor) -> Tensor:
        """Ids as ``tokenizer`` makes them -> unit vectors, float32 ``[N, latent_dim]``, on the same device."""
        rows = [[token for token in row if token != PADDING] for row in token_ids_NT.tolist()]
        return self._embed([TextSegment(row) for row in rows], token_ids_NT)

    def _embed(self, segments: Sequence[Segment], given: Tensor) -> Tensor:
        vectors = self.model.embed_segments([[segment, EmbSegment()] for segment in segments])
        return torch.from_numpy(vectors).to(given.device)


def load_clip(
    pretrained: str | Path = "starter", device: str | torch.device = "cpu"
) -> tuple[ClipModel, Callable[[pillow.Image], Tensor], Callable[[Sequence[str]], Tensor]]:
    """A model, its transform and its tokenizer, as the loaders of CLIP_benchmark return them.

    Args:
        pretrained: as ``sensorium.load`` takes it.

    Raises:
        FileNotFoundError, ValueError: there is no such model, or it reads no pictures.
    """
    model = load(pretrained)
    model.model.to(device)
    clip = ClipModel(model)
    return clip, clip.transform, clip.tokenizer
