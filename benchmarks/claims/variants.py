"""The claims: each a list of variants of one run configuration, to be trained for equal numbers of FLOPs."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.claims.measure import BRIDGE
from benchmarks.claims.settings import (
    PARTS,
    SIZES,
    Setting,
    of_part,
    resized,
    shares,
    with_modalities,
    with_model,
    with_sources,
    with_train,
)

from sensorium.config import RunConfig, SourceConfig, Template
from sensorium.data.reader import Reader
from sensorium.data.writer import ShardWriter

DRAWN_FIGURES = ("denoising", "drawing")
ALL_FIGURES = ("pictures", "sounds", "questions", "losses")
FIGURES_OF_PART = {
    "pictures": ("pictures", "losses"),
    "sounds": ("sounds", "losses"),
    "questions": ("questions", "losses"),
    "speech": ("losses",),
}
SHARES_OF_DATA = (0.1, 0.3, 1.0)
LEAST_SAMPLES = 24  # of a step of a part on its own share: fewer say nothing to a contrastive loss


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One configuration of a claim.

    Args:
        tflop: of training. figures: what is measured of it, see ``measure.FIGURES``.
        group: variants of one group are one system: their figures stand in one column.
        x: its place where figures are drawn over a number.
    """

    name: str
    config: RunConfig
    tflop: float
    figures: tuple[str, ...]
    group: str = ""
    x: float | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A question, its variants, and the variant that the others are compared with.

    Args:
        tflop: of every run, unless told otherwise.
        headline: names of figures that are drawn.
    """

    question: str
    base: str
    tflop: float
    variants: Callable[[Setting, float], list[Variant]]
    headline: tuple[str, ...]
    needs_full_data: bool = False


def joint(setting: Setting, tflop: float) -> list[Variant]:
    """One model of all parts; a model of each part on its share of the FLOPs; and on all of them."""
    config = setting.config
    out = [Variant(name="joint", config=config, tflop=tflop, figures=ALL_FIGURES)]
    out += _apart(config, tflop, "apart", "apart, same sum")
    for part in PARTS:
        alone = with_sources(config, of_part(config, part))
        out.append(
            Variant(
                name=f"apart with all, {part}",
                config=alone,
                tflop=tflop,
                figures=FIGURES_OF_PART[part],
                group="apart, all for each",
            )
        )
    return out


def _apart(config: RunConfig, tflop: float, name: str, group: str) -> list[Variant]:
    """A model of each part, on its share of the joint model's FLOPs and of the samples of its steps."""
    return [
        Variant(
            name=f"{name}, {part}",
            config=with_sources(
                config,
                of_part(config, part),
                samples_per_step=max(LEAST_SAMPLES, round(of_samples * config.data.samples_per_step)),
            ),
            tflop=tflop * of_flops,
            figures=FIGURES_OF_PART[part],
            group=group,
        )
        for part, (of_samples, of_flops) in shares(config).items()
    ]


def rate(setting: Setting, tflop: float) -> list[Variant]:
    """Joint and apart at other learning rates: what is joint shares each step's update, whose length they set."""
    out = []
    for lr in (1e-3, 2e-3, 4e-3):
        config = with_train(setting.config, lr=lr)
        out.append(Variant(name=f"joint, lr {lr:g}", config=config, tflop=tflop, figures=ALL_FIGURES))
        out += _apart(config, tflop, f"apart, lr {lr:g}", f"apart, lr {lr:g}")
    return out


def align(setting: Setting, tflop: float) -> list[Variant]:
    """Weights of the alignment loss."""
    return [
        Variant(
            name=f"w_align {weight:g}",
            config=with_train(setting.config, w_align=weight),
            tflop=tflop,
            figures=ALL_FIGURES,
        )
        for weight in (0.0, 0.1, 0.3, 1.0)
    ]


def words(setting: Setting, tflop: float) -> list[Variant]:
    """Weights of the text loss: in a mixture few of the supervised tokens are answers to questions."""
    return [
        Variant(
            name=f"w_text {weight:g}",
            config=with_train(setting.config, w_text=weight),
            tflop=tflop,
            figures=ALL_FIGURES,
        )
        for weight in (4.0, 12.0)
    ]


def experts(setting: Setting, tflop: float) -> list[Variant]:
    """One feed-forward, or a second one for what is being generated."""
    return [
        Variant(
            name=f"experts {kind}",
            config=with_model(setting.config, experts=kind),
            tflop=tflop,
            figures=ALL_FIGURES,
        )
        for kind in ("none", "ffn")
    ]


def encoder(setting: Setting, tflop: float) -> list[Variant]:
    """Blocks of its own that every modality has before the trunk."""
    return [
        Variant(
            name=f"{number} blocks",
            config=with_modalities(setting.config, num_encoder_layers=number),
            tflop=tflop,
            figures=ALL_FIGURES,
        )
        for number in (0, 2)
    ]


def drawn(config: RunConfig) -> RunConfig:
    """The configuration on generation alone: pictures, sounds and speech from their words."""
    weights = {"noto": 40, "fluent": 40, "scratch": 6, "sonic-pi": 3, "asterisk-en": 4, "asterisk-fr": 3}
    speech = PARTS["speech"]
    return with_sources(
        config,
        [
            SourceConfig(
                path=f"starter:{name}", weight=weight, templates={"speak" if name in speech else "draw": 1.0}
            )
            for name, weight in weights.items()
        ],
        templates={"draw": Template(documents=("{text}<emb>{target}",))},
    )


def target(setting: Setting, tflop: float) -> list[Variant]:
    """What the network says of a noisy patch: the clean signal or the velocity."""
    return [
        Variant(
            name=f"target {kind}",
            config=with_model(drawn(setting.config), target=kind),
            tflop=tflop,
            figures=DRAWN_FIGURES,
        )
        for kind in ("x", "v")
    ]


def noise(setting: Setting, tflop: float) -> list[Variant]:
    """Where the noise levels of training are centred."""
    return [
        Variant(
            name=f"noise_mu {mu:g}",
            config=with_modalities(drawn(setting.config), noise_mu=mu),
            tflop=tflop,
            figures=DRAWN_FIGURES,
            x=mu,
        )
        for mu in (-1.2, -0.8, 0.0, 0.8)
    ]


def data(setting: Setting, tflop: float) -> list[Variant]:
    """Shares of every source, each a part of the next larger one."""
    out = []
    for share in SHARES_OF_DATA:
        sources = [
            source
            if share == 1
            else dataclasses.replace(source, path=str(subset(setting.work, source, share)))
            for source in setting.config.data.sources
        ]
        rows = sum(Reader(source.path, "train").num_rows for source in sources)
        out.append(
            Variant(
                name=f"{share:.0%} of the data",
                config=with_sources(setting.config, sources),
                tflop=tflop,
                figures=ALL_FIGURES,
                x=float(rows),
            )
        )
    return out


def subset(work: Path, source: SourceConfig, share: float) -> Path:
    """A share of a source's training rows as shards, evenly over an order drawn by chance."""
    rows = list(Reader(source.path, source.split).rows())
    kept = np.random.default_rng(0).permutation(len(rows))[: math.ceil(share * len(rows))]
    folder = work / f"{share:g}" / source.path.partition(":")[2]
    write(folder, [rows[place] for place in sorted(kept)])
    return folder


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as shards, unless they are there."""
    if not (folder / "manifest.json").is_file():
        with ShardWriter(folder) as writer:
            for number, row in enumerate(rows):
                writer.write(row, number)


def size(setting: Setting, tflop: float) -> list[Variant]:
    """Widths and depths at the same FLOPs, the setting's own among them: the larger, the fewer samples."""
    out, names = [], list(SIZES)
    dims = [SIZES[name][0] for name in names]
    first = max(0, dims.index(setting.config.model.dim) - 2)
    for name in names[first : first + 3]:
        config = resized(setting.config, name)
        block = (
            2
            * config.model.dim
            * config.model.head_dim
            * (config.model.num_heads + config.model.num_kv_heads)
        )
        weights = config.model.num_layers * (block + 3 * config.model.dim * config.model.mlp_dim)
        out.append(Variant(name=name, config=config, tflop=tflop, figures=ALL_FIGURES, x=float(weights)))
    return out


def bridge(setting: Setting, tflop: float) -> list[Variant]:
    """Pictures and words, sounds and words; never a picture and its sound.

    Beside it the pictures alone, and the same with the words of the sounds shuffled among them. The order is that of the
    control of ``measure.bridge``, which so finds what a model of shuffled words was taught.
    """
    rows = list(Reader(str(setting.data / BRIDGE), "train").rows())
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = [
        {**row, "image": None, "text": rows[place]["text"], "concept": rows[place]["concept"]}
        for row, place in zip(rows, order, strict=True)
    ]
    write(setting.work / "shuffled", mixed)
    pictures = [_one_kind(setting.data / name, 18.0, "picture") for name in ("noto", "fluent", "tuxpaint")]
    pictures.append(_one_kind(setting.data / BRIDGE, 6.0, "picture"))
    templates = {
        "picture": Template(documents=("{image}<emb:a>", "{text}<emb:b>")),
        "sound": Template(documents=("{audio}<emb:a>", "{text}<emb:b>")),
    }
    sounds = {"pictures alone": None, "pictures and sounds": setting.data / BRIDGE}
    sounds["sounds with shuffled words"] = setting.work / "shuffled"
    return [
        Variant(
            name=name,
            config=with_sources(
                setting.config,
                [*pictures, *([_one_kind(path, 12.0, "sound")] if path else [])],
                templates=templates,
            ),
            tflop=tflop,
            figures=("pictures", "bridge"),
        )
        for name, path in sounds.items()
    ]


def _one_kind(path: Path, weight: float, template: str) -> SourceConfig:
    return SourceConfig(path=str(path), weight=weight, templates={template: 1.0}, cut=True)


CLAIMS = {
    "joint": Claim(
        question="joint training against the same parts trained apart",
        base="joint",
        tflop=3.0,
        variants=joint,
        headline=(
            "picture -> word R@10",
            "word -> picture R@10",
            "sound -> word R@1, training sounds",
            "questions right",
            "pictures: flow_image",
            "hearing: text",
        ),
    ),
    "rate": Claim(
        question="joint or apart, at learning rates of their own",
        base="joint, lr 0.001",
        tflop=3.0,
        variants=rate,
        headline=("picture -> word R@10", "questions right", "pictures: flow_image", "hearing: text"),
    ),
    "align": Claim(
        question="weight of the alignment loss",
        base="w_align 0",
        tflop=3.0,
        variants=align,
        headline=("picture -> word R@10", "questions right", "pictures: text", "pictures: flow_image"),
    ),
    "words": Claim(
        question="weight of the text loss",
        base="w_text 4",
        tflop=3.0,
        variants=words,
        headline=("questions right", "questions: text", "hearing: text", "picture -> word R@10"),
    ),
    "bridge": Claim(
        question="does sound help pictures, and do pictures find sounds that they were never paired with",
        base="pictures alone",
        tflop=2.0,
        variants=bridge,
        headline=(
            "stamp -> sound R@10",
            "sound -> stamp R@10",
            "unseen style -> sound R@10",
            "picture -> word R@10",
        ),
        needs_full_data=True,
    ),
    "data": Claim(
        question="more data",
        base="100% of the data",
        tflop=3.0,
        variants=data,
        headline=("pictures: align", "pictures: text", "pictures: flow_image", "questions: text"),
    ),
    "size": Claim(
        question="more parameters at equal FLOPs",
        base="nano",
        tflop=3.0,
        variants=size,
        headline=("pictures: align", "pictures: text", "pictures: flow_image", "questions: text"),
    ),
    "target": Claim(
        question="predicting the clean signal or the velocity",
        base="target x",
        tflop=3.0,
        variants=target,
        headline=(
            "image: x error",
            "image: Frechet distance",
            "image: asked concept is nearest",
            "audio: x error",
        ),
    ),
    "noise": Claim(
        question="centre of the noise levels in training",
        base="noise_mu 0",
        tflop=3.0,
        variants=noise,
        headline=(
            "image: x error",
            "image: Frechet distance",
            "image: asked concept is nearest",
            "audio: x error",
        ),
    ),
    "experts": Claim(
        question="a second feed-forward for what is being generated",
        base="experts none",
        tflop=3.0,
        variants=experts,
        headline=("pictures: flow_image", "speaking: flow_audio", "picture -> word R@10", "questions right"),
    ),
    "encoder": Claim(
        question="blocks of its own before the trunk",
        base="0 blocks",
        tflop=3.0,
        variants=encoder,
        headline=("picture -> word R@10", "questions right", "hearing: text", "pictures: text"),
    ),
}
