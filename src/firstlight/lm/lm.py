"""A model and its tokenizer as one thing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from firstlight import parallel, progress
from firstlight.errors import CompatibilityError, UsageError
from firstlight.lm import save
from firstlight.lm.sampling import GenerateSettings, RowRng, sample_tokens
from firstlight.model import GPT, ModelConfig, to_hf_state_dict
from firstlight.tokenizer import Tokenizer

if TYPE_CHECKING:
    from firstlight.lm.score import Score
    from firstlight.lm.streamer import IdStreamer, TextStreamer
    from firstlight.tokenizer import Codec

_ROWS = 64  # texts written at once
_CACHE_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}  # of their keys and values


@dataclass(frozen=True, slots=True)
class Generated:
    """One text that was written.

    Attributes:
        prompt: what it goes on from.
        text: what was written, up to a stop text and without it.
        ids: the tokens written, the last of a stop included, end-of-text not.
        ended_by: end-of-text, a stop text, or the limit of tokens.
    """

    prompt: str
    text: str
    ids: list[int]
    finish_reason: Literal["end", "stop", "length"]


class LM:
    """A GPT with its tokenizer.

    Args:
        model: on its device.
        tokenizer: None for sequences that are no text.
        device_context: precision of scoring; by default fp32 where the model is.
        source: where it was loaded from.
        ends: tokens at which a text ends, beside the tokenizer's end-of-text.
        codec: what the ids mean of sequences that are no text.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer | None,
        *,
        device_context: parallel.DeviceContext | None = None,
        source: Path | None = None,
        eos_ids: Iterable[int] = (),
        codec: "Codec | None" = None,
    ) -> None:
        self.model, self.tokenizer, self.source, self.codec = model, tokenizer, source, codec
        self.device_context = device_context or parallel.DeviceContext(
            next(model.parameters()).device, "fp32", False, torch.get_num_threads(), 0, 1, {}
        )
        words = self.vocab
        self.eos_ids = frozenset(eos_ids) | (frozenset() if words is None or words.eot_id < 0 else {words.eot_id})

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    @property
    def vocab(self) -> "Tokenizer | Codec | None":
        """The tokenizer, or what the ids mean of sequences that are no text."""
        return self.tokenizer or self.codec

    @classmethod
    def load_fp32(cls, name: str | Path) -> "LM":
        """Load onto the CPU in fp32, leaving this process's threads and precision as they are.

        Raises:
            UsageError: ``name`` means no model.
            CheckpointError: it is damaged, or of a family that is not supported.
            TokenizerError: its tokenizer is damaged.
        """
        from firstlight.lm import load  # training from new weights reads no model

        folder = load.locate(name)
        config, table = load.read_config(folder)
        tokenizer = load.read_tokenizer(folder)
        codec = None if tokenizer is not None else load.read_codec(folder, config)
        model = load.build_model(config, load.read_weights(folder, config))
        if tokenizer is not None and tokenizer.vocab_size > (model.config.vocab_size or 0):
            progress.warn(
                f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}: "
                "it cannot read a text with one of the others"
            )
        return cls(model.eval(), tokenizer, source=folder, eos_ids=load.read_eos_ids(folder, table), codec=codec)

    @classmethod
    def load(cls, name: str | Path, *, device: str = "auto", precision: str = "auto", int8: bool = False) -> "LM":
        """Load a run (its best checkpoint, else its latest), a checkpoint, a Hugging Face directory or a hub name.

        The weights are in the precision that is asked for or found; ``to`` keeps them as they are. With ``int8``
        matrices are in eight bits and the rest in fp32: such a model writes and scores, and is not saved.

        Raises:
            UsageError: ``name`` means no model, or this machine lacks the device or precision; or int8 and another.
            CheckpointError: it is damaged, or of a family that is not supported.
            TokenizerError: its tokenizer is damaged.
        """
        hardware = parallel.HardwareSettings.model_validate({"device": device, "precision": precision})
        device_context = parallel.resolve_hardware(hardware)
        if int8 and precision not in ("auto", "fp32"):
            raise UsageError("int8 leaves no room for another precision", found=precision, expected="auto or fp32")
        from firstlight.lm import load

        read = cls.load_fp32(name)
        if int8:
            return read.quantize_int8().to(device_context)
        load.cast(read.model, device_context.dtype)
        return read.to(device_context)

    def quantize_int8(self) -> "LM":
        """Put the matrices into eight bits, in place: faster writing, nearly the same numbers."""
        from firstlight.model.quantized import to_int8

        to_int8(self.model)
        return self

    def to(self, device_context: parallel.DeviceContext) -> "LM":
        """Move to a device; scoring then computes as training does there, in its precision from these weights."""
        self.model.to(device_context.device)
        self.device_context = device_context
        return self

    def save(self, folder: str | Path, facts: Mapping[str, Any] | None = None) -> None:
        """Write a Hugging Face directory; the weights as they are, in fp32.

        Raises:
            UsageError: the matrices are in int8, of which there is no exact way back.
        """
        embed: torch.nn.Module = self.model.embed
        if not isinstance(embed, torch.nn.Embedding) and not self.model.factors:
            raise UsageError("is in int8, which is not saved", where=self.source, fix="Load it without int8.")
        weights = {name: tensor.float().cpu() for name, tensor in to_hf_state_dict(self.model).items()}
        save.save_pretrained(Path(folder), self.config, weights, self.tokenizer, facts or {}, codec=self.codec)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, behind the token that begins every text of this model, if it has one.

        Of an empty text they are that token, or end-of-text, after which a new text begins.

        Raises:
            UsageError: this model has no tokenizer.
            CompatibilityError: the text has a token that the model does not.
        """
        tokenizer = self._words()
        begin = [] if tokenizer.begin_id is None else [tokenizer.begin_id]
        return self._known([*begin, *tokenizer.encode(text)] or [self.start_id])

    @cached_property
    def start_id(self) -> int:
        """The token that stands before a text: its own begin-of-text, end-of-text of the one before, else a line end.

        A model from elsewhere may have been trained without end-of-text, which then lies behind its vocabulary.

        Raises:
            UsageError: this model has no tokenizer.
        """
        words, V = self._words(), self.config.vocab_size or 0
        found = [words.eot_id if words.begin_id is None else words.begin_id, *words.encode("\n")[:1], 0]
        return next(i for i in found if i < V)

    def _words(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UsageError("the model has no tokenizer, so it reads and writes no text", where=self.source)
        return self.tokenizer

    def _known(self, ids: list[int]) -> list[int]:
        V = self.config.vocab_size or 0
        if ids and max(ids) >= V:
            raise CompatibilityError(
                "the tokenizer has a token that the model does not",
                where=self.source,
                found=f"{self._words().tokens()[max(ids)]!r}, id {max(ids)}",
                expected=f"ids below {V}",
                fix="Use the model's own tokenizer, or a text without this token.",
            )
        return ids

    def generate(self, prompts: str | Sequence[str], settings: GenerateSettings | None = None) -> list[Generated]:
        """Write on from each prompt, ``num_samples`` texts each.

        A text depends on the seed, its prompt and its place in the answer, never on the other texts.

        Raises:
            UsageError: this model has no tokenizer.
            CompatibilityError: a prompt has a token that the model does not.
            CheckpointError: the model's logits are not finite.
        """
        settings = settings or GenerateSettings()
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        asked = [prompt for prompt in asked for _ in range(settings.num_samples)]
        ids = [self.encode(prompt) for prompt in asked]
        texts = [self._text(prompt, settings) for prompt in ids]
        self._write_all(texts, ids, settings)
        return [
            Generated(prompt, text.text, text.ids, text.finish_reason or "length")
            for prompt, text in zip(asked, texts, strict=True)
        ]

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], settings: GenerateSettings | None = None, *, below: int | None = None
    ) -> list[list[int]]:
        """Write on from each prompt, which is not empty, ``num_samples`` times; return what was written.

        Args:
            prompts: ids.
            settings: all but ``stop``.
            below: choose among the ids below this one only.

        Raises:
            CheckpointError: the model's logits are not finite.
        """
        from firstlight.lm.streamer import IdStreamer

        settings = settings or GenerateSettings()
        asked = [list(prompt) for prompt in prompts for _ in range(settings.num_samples)]
        written = [IdStreamer(self.eos_ids) for _ in asked]
        self._write_all(written, asked, settings, below)
        return [one.ids for one in written]

    def _write_all(
        self,
        texts: "Sequence[TextStreamer | IdStreamer]",
        ids: list[list[int]],
        settings: GenerateSettings,
        below: int | None = None,
    ) -> None:
        # Prompts of like lengths stand together, so that little is padded.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while order:
            rows = self._rows_at_once(len(ids[order[-1]]) + settings.max_new_tokens)
            part, order = order[-rows:], order[:-rows]
            for _ in self._write([texts[i] for i in part], [ids[i] for i in part], settings, part, below):
                pass

    def stream(self, prompt: str, settings: GenerateSettings | None = None) -> Iterator[str]:
        """Write on from ``prompt`` and yield the text piece by piece; joined, it is what ``generate`` gives first.

        Raises:
            UsageError, CompatibilityError, CheckpointError: as ``generate``.
        """
        settings = settings or GenerateSettings()
        ids = self.encode(prompt)
        text = self._text(ids, settings)
        for _ in self._write([text], [ids], settings, [0]):
            if piece := text.take():
                yield piece

    def _text(self, ids: list[int], settings: GenerateSettings) -> "TextStreamer":
        from firstlight.lm.streamer import TextStreamer  # at the first text

        return TextStreamer(self._words(), ids, settings.stop, self.eos_ids)

    def _write(
        self,
        texts: "Sequence[TextStreamer | IdStreamer]",
        prompts: list[list[int]],
        settings: GenerateSettings,
        numbers: list[int],
        below: int | None = None,
    ) -> Iterator[None]:
        """Let texts grow together, a token each a turn, until all have ended; ``numbers`` are their places."""
        from firstlight.lm.decoding import BatchDecoder  # at the first text: many runs write none

        decoder = BatchDecoder(self.model, prompts, settings.max_new_tokens)
        dice = RowRng(settings.seed, numbers) if settings.temperature > 0 else None
        for turn in range(1, settings.max_new_tokens + 1):
            logits = decoder.logits()[:, :below]
            active = decoder.active
            uniform = None if dice is None else dice.roll([numbers[i] for i in active])
            tokens = sample_tokens(logits, settings, uniform).tolist()
            for i, token in zip(active, tokens, strict=True):
                texts[i].push(token)
            ended = {i for i in active if texts[i].finish_reason or turn == settings.max_new_tokens}
            for i in ended:
                texts[i].finish()
            yield
            if len(ended) == len(active):
                return
            decoder.push(tokens, ended)

    def _rows_at_once(self, length: int) -> int:
        """Return how many texts of a length may be written at once, by what their keys and values need."""
        c, weight = self.config, next(self.model.parameters())
        row = 2 * c.n_layer * c.kv_heads * c.head_dim * min(length, c.block_size) * weight.element_size()
        return max(1, min(_ROWS, _CACHE_BYTES.get(weight.device.type, 1 << 30) // row))

    def score(self, pairs: Sequence[tuple[str, str]]) -> "list[Score]":
        """Return how likely each continuation is after its context; an empty context begins a text.

        Text is cut at the border as it is when written in one go: what is scored are the tokens of context +
        continuation from the first one on that the context alone does not begin with. White space at a context's end
        belongs to the continuation. Contexts longer than the model sees lose their beginning.

        Raises:
            UsageError: this model has no tokenizer.
            CompatibilityError: a text has a token that the model does not.
        """
        from firstlight.lm.score import score_ids

        return score_ids(
            self.model, [self._border(context, continuation) for context, continuation in pairs], self.device_context
        )

    def _border(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        tokenizer = self._words()
        # Byte-level BPE writes a space at the beginning of a word.
        kept = context.rstrip()
        before, whole = tokenizer.encode(kept), self._known(tokenizer.encode(context + continuation))
        n = next(
            (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
        )
        first = [self.start_id] if n == 0 or tokenizer.begin_id is not None else []
        return [*first, *whole[:n]], whole[n:]
