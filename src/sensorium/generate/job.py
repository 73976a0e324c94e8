"""One answer in the making: a state machine that says what it needs next and takes what it gets."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sensorium.config import ModelConfig
from sensorium.generate.beams import search
from sensorium.generate.denoising import Drawing
from sensorium.generate.requests import Answer, Event, Finished, FinishReason, Media, Request, Text
from sensorium.generate.sequences import TokenSequence
from sensorium.generate.spelling import Spelled
from sensorium.generate.writing import Writer
from sensorium.media.audio import HOP_LENGTH, SAMPLE_RATE
from sensorium.sequence.document import MediaSegment, Segment, TextSegment
from sensorium.sequence.tokenizer import Tokenizer

if TYPE_CHECKING:
    from sensorium.generate.handle import Handle


class Job:
    """Answer ``index`` of a request.

    Args:
        handle: whom the events go to. number: order of arrival.
        writer: chooses text; None where the answer is one medium.
        main: the sequence that the answer stands in.
    """

    def __init__(
        self,
        handle: "Handle",
        index: int,
        number: int,
        config: ModelConfig,
        tokenizer: Tokenizer,
        main: TokenSequence,
        writer: Writer | None,
    ) -> None:
        self.handle, self.index, self.number = handle, index, number
        self.config, self.tokenizer = config, tokenizer
        self.main, self.writer = main, writer
        self.answer = Answer(index, num_prompt_tokens=main.total)
        # What stands behind the prompt, for the branches of guidance: tokens, and segments before them.
        self.spoken: list[int] = []
        self.said: list[Segment] = []
        self.sizing: tuple[str, list[int]] | None = None  # a medium that is opened, and its sizes so far
        self.drawing: Drawing | None = None
        self.is_done = False
        self.held: list[TokenSequence] = []  # that have a row of the cache
        self._noise = torch.Generator().manual_seed(handle.request.media.seed + index)
        if writer is None:
            self._open(self.request.output)

    @property
    def request(self) -> Request:
        """What is answered."""
        return self.handle.request

    @property
    def sequences(self) -> list[TokenSequence]:
        """All that need a row."""
        if self.drawing is None:
            return [self.main]
        return list(self.drawing.branches.values())

    @property
    def wants_token(self) -> bool:
        """Whether the logits behind ``main`` are what it waits for."""
        return self.drawing is None and self.main.hidden_D is not None

    @property
    def can_denoise(self) -> bool:
        """Whether its drawing waits for a velocity."""
        return self.drawing is not None and all(s.hidden_D is not None for s in self.sequences)

    @property
    def progress(self) -> float:
        """How far its drawing is."""
        return 0.0 if self.drawing is None else self.drawing.progress

    @property
    def length(self) -> int:
        """Positions that its longest sequence needs in the next step."""
        block = 1 if self.drawing is None else self.drawing.grid[0] * self.drawing.grid[1]
        return max(s.total for s in self.sequences) + block

    def take(self, logits_V: Tensor) -> None:
        """Take the logits behind ``main``."""
        if self.sizing is not None:
            self._take_size(logits_V)
            return
        assert self.writer is not None
        spelled = self.writer.spelled
        if spelled is not None and not spelled.has_heard:
            # Only now is the medium read, and its features known.
            spelled.hear(self.handle.engine.reader.spelled(self.main.media[-1]))
            if self.writer.searches:
                self._search(self.writer, spelled)
                return
        token = self.writer.choose(logits_V)
        opened = next((m for m in self.config.modalities if token == self.tokenizer.open_token(m)), None)
        if opened is not None and token not in self.writer.ends:
            self._send_text(self.writer.open_medium())
            self._open(opened)
            return
        piece, reason = self.writer.accept(token)
        if reason is None and self.main.total + 1 >= self.config.max_position:
            piece, reason = piece + self.writer.flush(), "length"
        self._send_text(piece, last=reason is not None)
        if reason is None:
            self._write(token)
        else:
            self.finish(reason)

    def _search(self, writer: Writer, spelled: Spelled) -> None:
        """All of a transcript at once."""
        options = writer.options
        room = min(options.max_tokens, self.config.max_position - self.main.total)
        found = search(
            self.handle.engine.reader,
            self.main,
            spelled,
            writer.allowed_V,
            num_beams=options.num_beams,
            max_tokens=room,
            weight=options.spelling,
        )
        for token in found:
            piece, reason = writer.accept(token)
            self._send_text(piece, last=reason is not None)
            if reason is not None:
                self.finish(reason)
                return
        if len(found) == room:
            self._send_text(writer.flush(), last=True)
            self.finish("length")
            return
        piece, _ = writer.accept(self.tokenizer.eos)
        self._send_text(piece, last=True)
        self.finish("stop")

    def take_velocities(self) -> None:
        """Look at the drawing after it has taken velocities: show it, or end it."""
        drawing = self.drawing
        assert drawing is not None
        if drawing.result is not None:
            self._send_media(drawing.result, 1.0)
            self._close(drawing)
        elif drawing.preview is not None:
            self._send_media(drawing.preview, drawing.progress)
            drawing.preview = None

    def finish(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """End the answer."""
        if not self.is_done:
            self.is_done = True
            self.answer.total_s = self.handle.engine.clock() - self.handle.submitted_s
            ended = self.writer
            self.send(
                Finished(
                    index=self.index,
                    reason=reason,
                    stop_token=None if ended is None else ended.stop_token,
                    stop_logprob=None if ended is None else ended.stop_logprob,
                    error=error,
                )
            )

    def send(self, event: Event) -> None:
        """Hand an event out."""
        if not self.answer.first_s:
            self.answer.first_s = self.handle.engine.clock() - self.handle.submitted_s
        self.answer.add(event)
        self.handle.receive(event)

    def _send_text(self, piece: str, *, last: bool = False) -> None:
        assert self.writer is not None
        if piece or last:
            token_ids, logprobs = self.writer.take_tokens()
            if piece or token_ids:
                self.send(Text(index=self.index, text=piece, token_ids=token_ids, logprobs=logprobs))

    def _send_media(self, array: Tensor, progress: float) -> None:
        assert self.drawing is not None
        self.send(
            Media(
                index=self.index,
                modality=self.drawing.modality,
                array=array,
                progress=progress,
                to_part=self.request.to_part,
            )
        )

    def _open(self, modality: str) -> None:
        """Begin a medium: its sizes are given, or the model's next tokens."""
        self._write(self.tokenizer.open_token(modality))
        self.sizing = (modality, [])
        if self.request.media.grid is not None and modality == self.request.output:
            self._sized(self.request.media.grid)

    def _take_size(self, logits_V: Tensor) -> None:
        """One more side, the likeliest of those that the model can draw."""
        assert self.sizing is not None
        modality, sizes = self.sizing
        limits = self.config.modalities[modality].max_grid
        low = self.tokenizer.size_token(1)
        size = int(logits_V[low : low + limits[len(sizes)]].argmax()) + 1
        sizes.append(size)
        if len(sizes) < num_sides(self.config, modality):
            self._write(self.tokenizer.size_token(size))
        else:
            self._sized((sizes[0], sizes[1] if len(sizes) > 1 else 1))

    def _sized(self, grid: tuple[int, int]) -> None:
        """The size is known: write what of it is not written yet, and draw behind every branch."""
        assert self.sizing is not None
        modality, written = self.sizing
        for side in grid[max(0, len(written) - 1) : num_sides(self.config, modality)]:
            self._write(self.tokenizer.size_token(side))
        self.sizing = None
        self.said.append(TextSegment(self.spoken))
        self.spoken = []
        num_patches = grid[0] * grid[1]
        if self.main.total + 2 * num_patches > self.config.max_position:
            self.finish("length")
            return
        if self.writer is not None:
            self.writer.num_tokens += 1 + num_sides(self.config, modality) + num_patches
        self.drawing = Drawing(
            modality,
            grid,
            self.config.modalities[modality],
            self.request.media,
            self._branches(),
            generator=self._noise,
            source=self.request.source,
            mask=self.request.mask,
            device=self.handle.engine.reader.device,
        )

    def _branches(self) -> dict[str, TokenSequence]:
        """The sequences that the block is drawn behind: the prompt, and what guidance moves away from."""
        request, options = self.request, self.request.media
        branches = {"full": self.main}
        by_media = request.without_media is not None and options.image_guidance_scale != 1
        if request.without_words is not None and (options.guidance_scale != 1 or by_media):
            branches["words"] = TokenSequence(self.tokenizer, [*request.without_words, *self.said])
        if request.without_media is not None and by_media:
            branches["none"] = TokenSequence(self.tokenizer, [*request.without_media, *self.said])
        return branches

    def _write(self, token: int) -> None:
        self.main.append_token(token)
        self.spoken.append(token)

    def _close(self, drawing: Drawing) -> None:
        """The medium is drawn: it ends the answer, or its clean copy is read and the text goes on."""
        assert drawing.result is not None
        if self.writer is None:
            self.finish("stop")
            return
        clean = MediaSegment(drawing.modality, drawing.result.cpu().numpy(), drawing.grid)
        self.said.append(clean)
        self.drawing = None
        self.main.append([clean])
        if self.writer.num_tokens >= self.writer.options.max_tokens:
            self.finish("length")


def num_sides(config: ModelConfig, modality: str) -> int:
    """Size tokens of a medium: pictures have two sides, a medium of one column has one."""
    return 2 if config.modalities[modality].max_grid[1] > 1 else 1


def check_grid(config: ModelConfig, modality: str, grid: tuple[int, int]) -> None:
    """Raise ValueError for a size that the model cannot draw."""
    limits = config.modalities[modality].max_grid
    if any(not 1 <= size <= limit for size, limit in zip(grid, limits, strict=True)):
        if modality == "audio" and limits[1] == grid[1]:
            patch_s = config.modalities[modality].patch[0] * HOP_LENGTH / SAMPLE_RATE
            raise ValueError(
                f"audio of {grid[0] * patch_s:.2f} s ({grid[0]} patches); this model makes sounds of {patch_s:.2f} to "
                f"{limits[0] * patch_s:.2f} s: ask for no more"
            )
        raise ValueError(
            f"{modality} of {grid[0]} x {grid[1]} patches; this model draws 1 to {limits[0]} x 1 to {limits[1]}"
        )
