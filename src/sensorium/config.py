"""Configuration: frozen dataclasses that are saved as JSON with every run and every checkpoint.

Nothing here imports torch, so that ``sensorium --help`` and ``import sensorium`` stay quick.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModalityConfig:
    """How one kind of medium enters and leaves the model. A medium is an array ``[channels, height, width]``.

    Args:
        channels: 3 for pictures, 1 for a spectrogram (height is time in frames, width is mel bands).
        patch: (height, width) of a patch; one patch is one token.
        max_size: (height, width) of the largest medium; larger pictures are resized, longer sounds are cut
            by the data path, which counts them.
        blank: the value of an empty background (white paper, silence). The encoder sees the difference to it:
            what says nothing then gives no signal, and different media start out far apart.
        num_encoder_layers: bidirectional blocks of its own before the trunk.
        stem: "conv" (early convolutions, whose stride product is the patch) or "linear" (one projection).
        refiner: a zero-initialised 3x3 convolution after un-patchifying removes seams between patches.
        noise_mu, noise_std: centre and width of ``t = sigmoid(N(mu, std))``, the noise level in training (0 noise, 1 signal).
        noise_scale: s in ``z = t x + (1 - t) s e``.
        copies_source: a medium that is generated behind one of its kind and size (its source: a picture that is being
            edited, an earlier sound of the same length) sees the source's patch beside its own noisy one (as in arXiv
            2211.09800), and copies from it pixel by pixel where it sees fit (as the attention masks of arXiv 1807.09251), in the
            source's colours or in others (``PatchHead``).
        spelled_per_patch: bytes that a patch may spell of what is said, in the loss that teaches to hear (connectionist
            temporal classification) and in transcripts; 0 leaves it out. 3 are enough for fast speech in patches of 64 ms.
    """

    channels: int
    patch: tuple[int, int]
    max_size: tuple[int, int]
    blank: float = 0.0
    num_encoder_layers: int = 2
    stem: Literal["conv", "linear"] = "conv"
    refiner: bool = True
    noise_mu: float = -0.8
    noise_std: float = 0.8
    noise_scale: float = 1.0
    copies_source: bool = False
    spelled_per_patch: int = 0

    def __post_init__(self) -> None:
        if self.spelled_per_patch < 0:
            raise ValueError(f"spelled_per_patch is {self.spelled_per_patch}; expected 0 (off) or more")

    @property
    def patch_dim(self) -> int:
        """Values in one patch."""
        return self.channels * self.patch[0] * self.patch[1]

    @property
    def max_grid(self) -> tuple[int, int]:
        """Patches along height and width of the largest medium."""
        return self.max_size[0] // self.patch[0], self.max_size[1] // self.patch[1]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The one transformer. Names and defaults follow Qwen3, so that public text models can be loaded.

    Args:
        dim: width of the residual stream.
        mlp_dim: hidden width of the SwiGLU feed-forward.
        latent_dim: width of the shared latent space that ``<emb>`` is projected to.
        qk_norm: RMSNorm on each query and key head (Qwen3); False covers Llama and SmolLM2.
        experts: "ffn" gives tokens of a block being generated a second feed-forward
            (Mixture-of-Transformers, arXiv 2411.04996).
        target: what the network predicts for a noisy patch: the clean signal "x" or the velocity "v".
        align_loss: "softmax" (CLIP, several positives) or "sigmoid" (SigLIP).
        modalities: name in the registry -> configuration.
    """

    vocab_size: int
    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    mlp_dim: int = 384
    latent_dim: int = 128
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    qk_norm: bool = True
    tie_embeddings: bool = True
    experts: Literal["none", "ffn"] = "none"
    target: Literal["x", "v"] = "x"
    align_loss: Literal["softmax", "sigmoid"] = "softmax"
    max_position: int = 4096
    modalities: dict[str, ModalityConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}; "
                "each key-value head serves a whole number of query heads"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} is odd; rotary positions turn pairs: use an even number"
            )
        for name, modality in self.modalities.items():
            if modality.copies_source and self.target != "x":
                raise ValueError(
                    f"modality {name!r} copies its source and target is {self.target!r}; only a clean signal can be "
                    'copied: use target "x"'
                )
            for size, patch in zip(modality.max_size, modality.patch, strict=True):
                if size % patch:
                    raise ValueError(
                        f"modality {name!r}: max_size {modality.max_size} is not a multiple of patch "
                        f"{modality.patch}; change one of them"
                    )
                # Sizes are written as tokens <0> .. <255>.
                if size // patch > 255:
                    raise ValueError(
                        f"modality {name!r}: max_size {modality.max_size} is more than 255 patches of "
                        f"{modality.patch} along a side; use larger patches"
                    )


@dataclass(frozen=True, kw_only=True)
class Template:
    """How a sample becomes documents, see ``sensorium.data.templates``.

    Args:
        documents: one line a document.
        words: slot -> what is drawn for it, at random, at each visit.
        spells: the sample's text is what is said in its sound, word for word (see ``ModalityConfig.spelled_per_patch``).
    """

    documents: tuple[str, ...]
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)
    spells: bool = False


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of samples in the mixture.

    Args:
        path: a Parquet file or a folder of them, here or in an object store ("s3://bucket/folder");
            "starter:NAME" is a source of the embedded data.
        weight: samples of this source in every ``sum of weights`` samples.
        templates: name -> weight; one is drawn per visit. Names are built in or those of ``DataConfig.templates``.
        augment: multiplies ``DataConfig.augment`` for this source; 0 where place is what is asked.
        keep_pixels: its pictures are only mirrored and shifted by whole pixels: where colours and small shapes are
            what is asked.
        split: rows of this split are used.
        cut: longer sounds than the model takes are cut rather than left out: right for effects, wrong for speech,
            whose words would no longer match.
        evaluated: its validation split is part of the loss that chooses the best checkpoint; False for what is only
            mixed in.
        order_key: what its order is drawn by beside the seed, so that it is the same wherever the data lie; "" is the path.
    """

    path: str
    weight: float
    templates: dict[str, float] = field(default_factory=lambda: {"pair": 1.0})
    augment: float = 1.0
    keep_pixels: bool = False
    split: str = "train"
    cut: bool = False
    evaluated: bool = True
    order_key: str = ""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on and in which shape it reaches the model.

    Args:
        clean_sources: a second, cleaner mixture that takes over from step ``clean_from`` to the end of the run, while
            the learning rate falls (as in MiniCPM, arXiv 2404.06395, section 4); none by default.
        row_length: positions in a packed row.
        samples_per_step: samples (not documents) that one optimiser step consumes.
        condition_dropout: share of generation documents whose condition is emptied (for guidance).
        media_dropout: share of question documents whose media are removed, so that the model has an honest
            answer when there is nothing to see (and a blind baseline is in distribution).
        augment: strength in [0, 1] of random shifts, scales, flips and colour changes of context pictures,
            and of throats, pitches, speeds, microphones, sampling rates, noise, shifts and masks of context sounds.
        templates: a run's own, beside the built-in ones.
        max_frames: frames taken from a video.
        shuffle_blocks: row groups whose rows are mixed with each other, while all row groups are shuffled.
        cache_mb: decoded media that are kept, so that small data are decoded once.
        num_workers: processes that make batches; 0 makes them in a thread.
        largest_first: puts the largest of the first 64 steps first, so that memory runs out at once or hardly ever.
    """

    sources: tuple[SourceConfig, ...]
    clean_sources: tuple[SourceConfig, ...] = ()
    clean_from: int = 0
    templates: dict[str, Template] = field(default_factory=dict)
    row_length: int = 128
    samples_per_step: int = 96
    condition_dropout: float = 0.1
    media_dropout: float = 0.1
    augment: float = 1.0
    max_frames: int = 8
    shuffle_blocks: int = 16
    cache_mb: int = 512
    num_workers: int = 0
    largest_first: bool = False

    def __post_init__(self) -> None:
        if self.clean_sources and self.clean_from < 1:
            raise ValueError(
                f"clean_from is {self.clean_from}; clean_sources need the step at which they take over, 1 or later"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation, budget and schedule of one run.

    Args:
        num_steps: optimiser steps; the learning rate reaches its end there.
        max_train_s: optional wall-clock budget in seconds; the schedule then follows whichever of steps and
            seconds is further along, so that a slow machine still anneals to the end. 0 means none.
        lr: peak learning rate. optimizer: "adamw", or "muon" for the trunk's matrices (those of encoders' blocks where only
            spellers are trained) with AdamW for the rest.
        muon_lr_scale: Muon's learning rate over ``lr``.
        warmup: share of the run with a rising learning rate.
        decay: share of the run, at its end, with a falling one.
        w_flow, w_align, w_spell, z_loss: weights of the losses beside next-token cross-entropy (1).
        text_average: what cross-entropy is the mean of: "token" counts every token alike, so that long texts have nearly
            all of the gradient and answers of one word nearly none; "root" counts each of a document's n tokens
            ``n ** -0.5`` (square averaging, arXiv 2412.05271); "document" counts every document alike.
        ema_decay: of the exponential moving average whose weights are saved for inference.
        save_every, sample_every, log_every: steps; 0 means only at the end.
        trackers: where metrics and samples go beside the run's own files (extra "track").
        eval_every: steps between losses on ``eval_batches`` steps' worth of the sources' "validation" split; 0 means
            never. The checkpoint with the lowest is ``best``.
        patience: such losses in a row without a new lowest after which the run stops; 0 means it never does.
        trained: "all" weights; only the "heads" (``model.heads.is_head``); or only the "spellers" with their encoders
            (``spelled_per_patch``), without the trunk where nothing else is asked of it (template "spell"). The others
            stay as they are.
        num_microbatches: parts in which a rank goes through its share of a step: less memory, the same losses.
        shard_size: ranks that share one copy of the parameters; 0 means all.
        activation_checkpointing: recompute the trunk's blocks in backward: less memory for a third more time.
        compile: compile each block of the trunk.
        precision: of matrix products; "auto" is bfloat16 on a GPU that has it. A CPU with AVX512-BF16 or AMX is 1.2 to
            1.6 times as quick in "bfloat16". Weights and sums are always float32.
    """

    num_steps: int = 1000
    max_train_s: float = 0.0
    lr: float = 1e-3
    optimizer: Literal["adamw", "muon"] = "adamw"
    muon_lr_scale: float = 1.0
    min_lr_ratio: float = 0.02
    warmup: float = 0.05
    decay: float = 0.6
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    w_text: float = 1.0
    w_flow: float = 2.0
    w_align: float = 0.3
    w_spell: float = 1.0
    z_loss: float = 1e-4
    text_average: Literal["token", "root", "document"] = "token"
    ema_decay: float = 0.995
    seed: int = 0
    save_every: int = 200
    keep_checkpoints: int = 2
    sample_every: int = 0
    log_every: int = 10
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    eval_every: int = 0
    eval_batches: int = 4
    patience: int = 0
    trained: Literal["all", "heads", "spellers"] = "all"
    num_microbatches: int = 1
    shard_size: int = 0
    activation_checkpointing: bool = False
    compile: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed} is outside 0 .. {2**32 - 1}; choose another")
        for name in ("num_steps", "num_microbatches", "keep_checkpoints", "eval_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} is {getattr(self, name)}; expected 1 or more")
        if self.patience and not self.eval_every:
            raise ValueError(
                f"train.patience is {self.patience} and train.eval_every 0: no held-out loss is ever taken; set "
                "train.eval_every too"
            )
        for name in ("save_every", "sample_every", "log_every", "eval_every", "patience", "shard_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name} is {getattr(self, name)}; expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that defines a run."""

    name: str
    tokenizer: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        if self.data.clean_sources and self.data.clean_from >= self.train.num_steps:
            raise ValueError(
                f"data.clean_from is {self.data.clean_from} and train.num_steps {self.train.num_steps}: the clean "
                "stage would never come; lower the one or raise the other"
            )
        spelled = [modality.spelled_per_patch for modality in self.model.modalities.values()]
        if self.train.trained == "spellers" and not any(spelled):
            raise ValueError(
                'train.trained is "spellers" and no modality has a speller; set its spelled_per_patch (to 3, say)'
            )


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: dict[str, Any], *, where: str = "") -> T:
    """Build a configuration from JSON values; an unknown key is an error that names the nearest known one."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        near = difflib.get_close_matches(unknown[0], hints, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown configuration key {where + unknown[0]!r}; the nearest known key is "
            f"{where + near[0]!r}; rename or remove it"
        )
    built = {key: _convert(hints[key], value, f"{where}{key}.") for key, value in values.items()}
    try:
        return cls(**built)
    except TypeError as error:
        raise ValueError(f"configuration {where.rstrip('.') or cls.__name__}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    name = where.rstrip(".")
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"configuration key {name!r} is {value!r}; expected an object with fields")
        return from_dict(typing.cast(type, hint), value, where=where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(
                f"configuration key {name!r} is {value!r}; expected an object of names and values"
            )
        return {key: _convert(args[1], item, f"{where}{key}.") for key, item in value.items()}
    if origin is tuple:
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise ValueError(f"configuration key {name!r} is {value!r}; expected a list of {len(kinds)}")
        return tuple(
            _convert(kind, item, f"{where}{i}.")
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is Literal:
        if value not in args:
            raise ValueError(
                f"configuration key {name!r} is {value!r}; expected one of {', '.join(map(repr, args))}"
            )
        return value
    if origin in (typing.Union, types.UnionType):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and (
        not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    ):
        raise ValueError(f"configuration key {name!r} is {value!r}; expected {hint.__name__}")
    return value


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON values as dotted keys: ``{"train.lr": 1e-3, "data.sources.0.path": ...}``."""
    if isinstance(values, Mapping):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list | tuple) and any(isinstance(value, Mapping) for value in values):
        items = [(str(index), value) for index, value in enumerate(values)]
    else:
        return {prefix: list(values) if isinstance(values, tuple) else values}
    return {
        k: v for key, value in items for k, v in flatten(value, f"{prefix}.{key}" if prefix else key).items()
    }


def save_config(config: Any, path: Path) -> None:
    """Write a configuration as indented JSON."""
    path.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")


def load_config(cls: type[T], path: Path) -> T:
    """Read a configuration; errors name the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return from_dict(cls, values)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; a model folder holds a config.json") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
