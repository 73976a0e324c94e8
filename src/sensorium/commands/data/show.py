"""``sensorium data show``: exactly what the model will see of one sample."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from sensorium.commands.arguments import parse
from sensorium.data.splits import SPLITS

DESCRIPTION = """Print and draw one sample as the model will see it: tokens, what is predicted where (the loss), the
three-axis positions, blocks, who sees whom (the mask), and the media after decoding and resizing.

WHICH is a number (from 0) or the id of a sample.

Examples:
  sensorium data show starter:noto 0
  sensorium data show data/photos cat-17 --recipe tiny --template caption --out show.png
  sensorium data show data/edits 3 --split test --json
"""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Arguments of ``sensorium data show``."""

    sample: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH WHICH", help_behavior_hint="")
    ] = ()
    """Shards, and which of their samples."""
    recipe: str = "nano"
    """Whose tokenizer, sizes of media and row length are used."""
    template: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: the first that suits it)")] = ""
    """How the sample becomes documents."""
    templates: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """A JSON file of templates of your own."""
    split: str = "train"
    """train, validation or test."""
    seed: int = 0
    """Of what is drawn: words, languages, dropped conditions, augmentation."""
    augment: float = 0.0
    """Strength of the augmentation, 0 to 1."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png", help_behavior_hint="")] = None
    """Draw the media and the mask into this picture."""
    json: bool = False
    """Print one JSON object instead of tables."""


def main(arguments: Sequence[str]) -> int:
    """Find the sample, lay it out, show it."""
    chosen, _ = parse(Show, arguments, verb="data show", description=DESCRIPTION)
    if len(chosen.sample) != 2:
        raise ValueError(
            f"give a path and which sample, such as `starter:noto 0`; got {' '.join(chosen.sample) or 'neither'}"
        )
    if chosen.split not in SPLITS:
        raise ValueError(f"--split is {chosen.split!r}; expected {', '.join(SPLITS)}")
    if chosen.out and chosen.out.suffix != ".png":
        raise ValueError(f"cannot draw into {chosen.out.name}; give a name that ends in .png")

    from sensorium import recipes
    from sensorium.commands.train import read_templates
    from sensorium.data.sample import OverBudgetError, sample_of_row
    from sensorium.data.templates import build_documents, find_template
    from sensorium.sequence.document import num_positions
    from sensorium.sequence.packing import pack
    from sensorium.sequence.tokenizer import Tokenizer

    config = recipes.get(chosen.recipe)
    tokenizer = Tokenizer.load(config.tokenizer)
    row = _find_row(chosen.sample[0], chosen.sample[1], chosen.split)
    own = read_templates(chosen.templates) if chosen.templates else {}
    name = chosen.template or suitable_template(row)
    rng = np.random.default_rng(chosen.seed)
    try:
        sample = sample_of_row(
            row, config.model, rng=rng, strength=chosen.augment, max_frames=config.data.max_frames
        )
    except OverBudgetError as error:
        raise ValueError(
            f"{error}; training with this recipe leaves the sample out: give another --recipe"
        ) from error
    documents = build_documents(sample, find_template(name, own), tokenizer, rng, pair_key="0", task=name)
    length = max(
        config.data.row_length,
        max(num_positions(d.segments) for d in documents),
    )
    batch = pack(documents, tokenizer, config.model, row_length=length)
    shown = [describe_document(n, batch, tokenizer) for n in range(len(documents))]
    over = [d for d in shown if d["num_positions"] > config.data.row_length]
    if chosen.json:
        print(
            json.dumps(
                {"id": row["id"], "template": name, "row_length": config.data.row_length, "documents": shown},
                ensure_ascii=False,
            )
        )
    else:
        if row["id"] != chosen.sample[1]:
            print(f"number {chosen.sample[1]} of split {chosen.split}")
        print_documents(row, name, chosen.recipe, config.data.row_length, shown)
    if over and not chosen.json:
        print(
            f"note: {over[0]['num_positions']} positions do not fit into a row of {config.data.row_length}: "
            f"training with {chosen.recipe} leaves this sample out (raise --data.row-length)"
        )
    if chosen.out:
        draw(batch, shown, config.model, chosen.out)
        if not chosen.json:
            print(f"drew {chosen.out}")
    return 0


def suitable_template(row: dict[str, Any]) -> str:
    """A template that asks for nothing the sample lacks."""
    if row.get("messages"):
        return "chat"
    if row.get("video"):
        return "watch"
    if row.get("text"):
        return "pair" if row.get("image") or row.get("audio") else "text"
    if row.get("image") and row.get("audio"):
        return "see-hear"
    if row.get("names"):
        return "translate"
    raise ValueError("no template fits: the sample has no words; give it some, or name a template")


def _find_row(path: str, which: str, split: str) -> dict[str, Any]:
    from sensorium.data.reader import Reader

    reader = Reader(path, split, max_blocks=2)
    if which.isdigit() and int(which) < reader.num_rows:
        ends = np.cumsum(reader.block_sizes)
        block = int(np.searchsorted(ends, int(which), side="right"))
        return reader.row(block, int(which) - int(ends[block] - reader.block_sizes[block]))
    # An id is unique: it is found in any split.
    others = [Reader(path, other, max_blocks=2) for other in SPLITS if other != split]
    found = next((row for part in (reader, *others) for row in part.rows() if row["id"] == which), None)
    if found is None:
        raise ValueError(
            f"{path} has no sample {which!r} in split {split!r}; it has {reader.num_rows} samples there, give "
            + (f"a number from 0 to {reader.num_rows - 1} or an id" if reader.num_rows else "another --split")
        )
    return found


def describe_document(number: int, batch: Any, tokenizer: Any) -> dict[str, Any]:
    """The spans of one document: text token by token, media block by block."""
    flat = (batch.doc_id_BT == number).flatten().nonzero().flatten().tolist()
    ids, labels = batch.token_ids_BT.flatten(), batch.labels_BT.flatten()
    block, noisy = batch.block_id_BT.flatten(), batch.is_noisy_BT.flatten()
    positions = batch.positions_BT3.reshape(-1, 3)
    rows: list[dict[str, Any]] = []
    media = {
        int(at): (kind, tuple(grid))
        for group in (batch.context, batch.targets)
        for kind, items in group.items()
        for at, grid in _starts(items)
    }
    at = 0
    while at < len(flat):
        where = flat[at]
        span = 1
        if int(block[where]) >= 0:
            kind, grid = media[where]
            span = grid[0] * grid[1]
            what = f"{kind} {grid[0]}x{grid[1]} patches, " + ("to generate" if noisy[where] else "context")
        else:
            what = token_text(int(ids[where]), tokenizer)
        last = flat[at + span - 1]
        predicted = [
            token_text(int(labels[i]), tokenizer) for i in flat[at : at + span] if int(labels[i]) >= 0
        ]
        rows.append(
            {
                "at": at,
                "span": span,
                "what": what,
                "predicts": " ".join(predicted) or ("the clean patches (flow)" if noisy[where] else ""),
                "first_position": positions[where].tolist(),
                "last_position": positions[last].tolist(),
                "block": int(block[where]),
            }
        )
        at += span
    supervised = sum(int(labels[i]) >= 0 for i in flat)
    return {
        "task": batch.tasks[number],
        "num_positions": len(flat),
        "num_predicted_tokens": supervised,
        "spans": rows,
    }


def _starts(items: Any) -> Iterator[tuple[int, list[int]]]:
    at = 0
    for grid in items.grids_N2.tolist():
        yield int(items.token_index_P[at]), grid
        at += grid[0] * grid[1]


def token_text(token_id: int, tokenizer: Any) -> str:
    """A token as a person reads it; control tokens by their names, pieces of text in quotes."""
    raw = tokenizer.backend.id_to_token(token_id)
    if token_id < tokenizer.size_base + 256:
        return str(raw)
    text = tokenizer.decode([token_id])
    return repr(text) if "\ufffd" not in text else f"byte {raw!r}"


def print_documents(
    row: dict[str, Any], template: str, recipe: str, row_length: int, shown: list[dict[str, Any]]
) -> None:
    """The documents of a sample as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    about = {k: row.get(k) for k in ("split", "concept", "language", "source", "license")}
    facts = ", ".join(f"{k} {v}" for k, v in about.items() if v)
    console.print(
        f"sample {row['id']}" + (f": {facts}" if facts else ""), markup=False, highlight=False, soft_wrap=True
    )
    for number, document in enumerate(shown, 1):
        console.print(
            f"\ndocument {number} of {len(shown)} by template {template!r}, recipe {recipe}: "
            f"{document['num_positions']} of {row_length} positions, {document['num_predicted_tokens']} tokens "
            "predicted",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        table = Table("at", "what stands there", "predicts", "position (t, h, w)", "block")
        for span in document["spans"]:
            first, last = span["first_position"], span["last_position"]
            where = str(tuple(first)) + (f" .. {tuple(last)}" if span["span"] > 1 else "")
            block = str(span["block"]) if span["block"] >= 0 else ""
            cells = (str(span["at"]), span["what"], span["predicts"], where, block)
            table.add_row(*(cell.replace("[", "\\[") for cell in cells))
        console.print(table)


def draw(batch: Any, shown: list[dict[str, Any]], model: Any, path: Path) -> None:
    """Media as the model sees them, and the mask of each document, as one picture."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from sensorium.sequence.mask import attention_mask

    panels = [
        (f"{kind}, {role}", array.numpy(), kind)
        for role, group in (("context", batch.context), ("to generate", batch.targets))
        for kind, items in group.items()
        for array in items.arrays_NCHW
    ]
    mask = attention_mask(batch.doc_id_BT, batch.block_id_BT, batch.is_noisy_BT)[:, 0]
    num = len(panels) + len(shown)
    columns = min(4, num)
    figure, axes = plt.subplots(
        -(-num // columns), columns, figsize=(4 * columns, 4 * -(-num // columns)), squeeze=False
    )
    cells = list(axes.flat)
    for axis, (title, array, _) in zip(cells, panels, strict=False):
        if array.shape[0] == 3:
            axis.imshow(np.clip((array.transpose(1, 2, 0) + 1) / 2, 0, 1))
        else:
            axis.imshow(array[0].T, origin="lower", aspect="auto", cmap="magma")
            axis.set_xlabel("frame")
            axis.set_ylabel("mel band")
        axis.set_title(title)
    for number, document in enumerate(shown):
        axis = cells[len(panels) + number]
        row, start = divmod(int((batch.doc_id_BT == number).flatten().nonzero()[0]), batch.doc_id_BT.shape[1])
        stop = start + document["num_positions"]
        axis.imshow(mask[row, start:stop, start:stop].numpy(), cmap="Greys", vmin=0, vmax=1)
        predicted = (batch.labels_BT[row, start:stop] >= 0).nonzero().flatten().tolist()
        axis.plot([-1.5] * len(predicted), predicted, ">", color="tab:red", clip_on=False)
        axis.set_title(f"document {number + 1}: row sees column (black);\nred: predicts a token")
    for axis in cells[num:]:
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)
