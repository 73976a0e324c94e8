"""Text <-> token ids: a byte-level BPE (no unknown words in any language) with the control tokens in front.

The layout of ids is the same for every tokenizer of ours: control tokens, one opening token per modality, the
size tokens ``<0>`` .. ``<255>`` that say how large a generated medium is, then bytes and merges.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from sensorium.media.modality import MODALITIES

PAD, EOS, USER, ASSISTANT, EMB, WAIT = "<pad>", "<eos>", "<user>", "<assistant>", "<emb>", "<wait>"
CONTROL = (PAD, EOS, USER, ASSISTANT, EMB, WAIT)
NUM_SIZES = 256
BUILT_IN = {
    name: Path(__file__).with_name(f"{name}.json") for name in ("starter-1k", "starter-4k", "starter-8k")
}


class Tokenizer:
    """A thin wrapper that knows the control tokens.

    Args:
        backend: a ``tokenizers.Tokenizer`` whose vocabulary holds every control token.
    """

    def __init__(self, backend: HfTokenizer) -> None:
        self.backend = backend
        self._encoded = lru_cache(maxsize=16_384)(self._encode)  # names and instructions come again and again
        self.pad, self.eos, self.user, self.assistant, self.emb, self.wait = (self.id_of(t) for t in CONTROL)
        self.size_base = self.id_of("<0>")

    def id_of(self, token: str) -> int:
        """The id of a control token; a missing one is an error that names it."""
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise ValueError(
                f"the tokenizer has no {token} token; build it with Tokenizer.train or Tokenizer.bytes"
            )
        return int(token_id)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self.backend.get_vocab_size())

    def open_token(self, modality: str) -> int:
        """The id of ``<image>``, ``<audio>``, ..."""
        return self.id_of(f"<{modality}>")

    def size_token(self, size: int) -> int:
        """The id of a size token; sizes are counted in patches."""
        if not 0 <= size < NUM_SIZES:
            raise ValueError(f"size {size} patches cannot be written; sizes go from 0 to {NUM_SIZES - 1}")
        return self.size_base + size

    def encode(self, text: str) -> list[int]:
        """Text -> ids. Control tokens written out in the text stay plain text: nobody can inject one."""
        return list(self._encoded(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.backend.encode(text, add_special_tokens=False).ids)

    def __getstate__(self) -> dict[str, Any]:
        return {"backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["backend"])  # type: ignore[misc]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Ids -> text; control tokens are left out and broken UTF-8 becomes the replacement character."""
        return str(self.backend.decode([i for i in token_ids if i >= self.size_base + NUM_SIZES]))

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self.backend.save(str(path))

    @classmethod
    def load(cls, name: str | Path) -> "Tokenizer":
        """A built-in name ("bytes", "starter-1k", "starter-4k") or a path of a ``tokenizer.json``."""
        if name == "bytes":
            return cls.bytes()
        path = BUILT_IN.get(str(name), Path(name))
        if not path.is_file():
            raise FileNotFoundError(
                f"no tokenizer at {path}; give a tokenizer.json, or one of bytes, {', '.join(BUILT_IN)}"
            )
        # Only files that ship with the package are kept: another may change on the disk.
        return _load_built_in(path) if name in BUILT_IN else _load(path)

    @classmethod
    def bytes(cls) -> "Tokenizer":
        """No merges: every byte is a token."""
        return cls.train([], vocab_size=0)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> "Tokenizer":
        """Learn merges from texts until ``vocab_size`` ids (control and size tokens included) are used."""
        control = _control_tokens()
        backend = HfTokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        # The control tokens enter the vocabulary through the trainer but are not *added* tokens: the text
        # "<eos>" typed by a user is then split into bytes like any other.
        trainer = trainers.BpeTrainer(
            vocab_size=max(vocab_size, len(control) + 256),
            special_tokens=list(control),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
            min_frequency=2,
        )
        backend.train_from_iterator(texts, trainer=trainer)
        return cls(_without_added_tokens(backend))


def _control_tokens() -> dict[str, None]:
    names = [*CONTROL, *(f"<{name}>" for name in MODALITIES), *(f"<{i}>" for i in range(NUM_SIZES))]
    return dict.fromkeys(names)  # ordered, and quick to look up


def _without_added_tokens(backend: HfTokenizer) -> HfTokenizer:
    import json

    state = json.loads(backend.to_str())
    state["added_tokens"] = []
    taken = {"".join(pair) for pair in state["model"]["merges"]} & _control_tokens().keys()
    if taken:
        raise ValueError(
            f"the training text holds {sorted(taken)[0]} so often that it became a token of text; remove it "
            "from the text, since it would be mistaken for a control token"
        )
    return HfTokenizer.from_str(json.dumps(state))


def _load(path: Path) -> Tokenizer:
    try:
        backend = HfTokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} is damaged ({error}); take another copy") from error
    return Tokenizer(backend)


_load_built_in = lru_cache(maxsize=None)(_load)
