"""A model and its tokenizer as one thing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from firstlight import parallel
from firstlight import tokenizer as tokenizers
from firstlight.errors import UsageError
from firstlight.lm import directory
from firstlight.lm.decoding import Decoding
from firstlight.lm.sampling import Dice, GenerateSettings, choose
from firstlight.lm.score import Score
from firstlight.model import GPT, ModelConfig, export_state
from firstlight.tokenizer import Tokenizer

_ROWS = 64  # texts written at once


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
    ended_by: Literal["end", "stop", "length"]


class LM:
    """A GPT with its tokenizer.

    Args:
        model: on its device.
        tokenizer: None for sequences that are no text.
        place: precision of scoring; by default fp32 where the model is.
        source: where it was loaded from.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer | None, *, place: parallel.Place | None = None, source: Path | None = None
    ) -> None:
        self.model, self.tokenizer, self.source = model, tokenizer, source
        self.place = place or parallel.Place(model.embed.weight.device, "fp32", False, torch.get_num_threads(), 0, 1, {})

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    @classmethod
    def read(cls, name: str | Path) -> "LM":
        """Load onto the CPU in fp32, leaving this process's threads and precision as they are.

        Raises:
            UsageError: ``name`` means no model.
            CheckpointError: it is damaged, or of a family that is not supported.
        """
        folder = directory.locate(name)
        config, _ = directory.read_config(folder)
        tokenizer = tokenizers.load(folder) if (folder / "tokenizer.json").is_file() else None
        model = GPT(config)
        model.load_state_dict(directory.read_weights(folder, model.config), assign=True)
        return cls(model.eval(), tokenizer, source=folder)

    @classmethod
    def load(cls, name: str | Path, *, device: str = "auto", precision: str = "auto") -> "LM":
        """Load a run (its best checkpoint, else its latest), a checkpoint, a Hugging Face directory or a hub name.

        Raises:
            UsageError: ``name`` means no model, or this machine lacks the device or precision.
            CheckpointError: it is damaged, or of a family that is not supported.
        """
        folder = directory.locate(name)
        hardware = parallel.Hardware.model_validate({"device": device, "precision": precision})
        place = parallel.resolve(hardware)
        read = cls.read(folder)
        if place.precision != "fp32":
            directory.cast(read.model, place.dtype)
        return cls(read.model.to(place.device), read.tokenizer, place=place, source=folder)

    def save(self, folder: Path, facts: Mapping[str, Any] | None = None) -> None:
        """Write a Hugging Face directory; the weights as they are, in fp32."""
        weights = {name: tensor.float().cpu() for name, tensor in export_state(self.model).items()}
        directory.write(folder, self.config, weights, self.tokenizer, facts or {})

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; of an empty one, end-of-text, after which a new text begins.

        Raises:
            UsageError: this model has no tokenizer.
        """
        tokenizer = self._words()
        return tokenizer.encode(text) or [tokenizer.eot_id]

    def _words(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UsageError("the model has no tokenizer, so it reads and writes no text", where=self.source)
        return self.tokenizer

    @torch.no_grad()
    def generate(self, prompts: str | Sequence[str], settings: GenerateSettings | None = None) -> list[Generated]:
        """Write on from each prompt, ``num_samples`` texts each.

        A text depends on the seed, its prompt and its place in the answer, never on the other texts.
        """
        settings = settings or GenerateSettings()
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        asked = [prompt for prompt in asked for _ in range(settings.num_samples)]
        out: list[Generated] = []
        for first in range(0, len(asked), _ROWS):
            out += self._together(asked[first : first + _ROWS], settings, first)
        return out

    def _together(self, prompts: list[str], settings: GenerateSettings, first: int) -> list[Generated]:
        texts = [_Text(self._words(), settings.stop) for _ in prompts]
        for tokens in self._tokens([self.encode(p) for p in prompts], settings, first):
            for text, token in zip(texts, tokens, strict=True):
                text.push(token)
            if all(text.ended_by for text in texts):
                break
        return [
            Generated(prompt, "".join([*text.pieces, text.flush()]), text.ids, text.ended_by or "length")
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    @torch.no_grad()
    def stream(self, prompt: str, settings: GenerateSettings | None = None) -> Iterator[str]:
        """Write on from ``prompt`` and yield the text piece by piece; joined, it is what ``generate`` gives."""
        settings = settings or GenerateSettings()
        text = _Text(self._words(), settings.stop)
        for (token,) in self._tokens([self.encode(prompt)], settings, 0):
            if piece := text.push(token):
                yield piece
            if text.ended_by:
                break
        if rest := text.flush():
            yield rest

    def _tokens(self, prompts: list[list[int]], settings: GenerateSettings, first: int) -> Iterator[list[int]]:
        """Yield each next token of every row, at most ``max_new_tokens`` times."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                decoding = Decoding(self.model, prompts, settings.max_new_tokens)
                dice = Dice(settings.seed, range(first, first + len(prompts))) if settings.temperature > 0 else None
                for _ in range(settings.max_new_tokens):
                    logits = decoding.logits()
                    tokens = choose(logits, settings, dice and dice.roll(logits.device)).tolist()
                    decoding.push(tokens)
                    yield tokens
        finally:
            self.model.train(was_training)

    @torch.no_grad()
    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Return how likely each continuation is after its context; an empty context begins a text.

        Text is cut at the border as it is when written in one go: the tokens of context + continuation beyond those
        of the context. Contexts longer than the model sees lose their beginning.
        """
        return [self._score(*self._border(context, continuation)) for context, continuation in pairs]

    def _border(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        space = len(context) - len(context.rstrip())
        if space:  # byte-level BPE writes a space at the beginning of a word
            context, continuation = context[:-space], context[-space:] + continuation
        before = self.encode(context)
        if not context:
            return before, self.encode(continuation)
        whole = self.encode(context + continuation)
        return whole[: len(before)], whole[len(before) :]

    def _score(self, before: list[int], after: list[int]) -> Score:
        T = self.config.block_size
        if not after:
            return Score(0.0, 0, True)
        ids = [*before, *after][-(T + 1) :]
        n = min(len(after), len(ids) - 1)
        device = self.model.embed.weight.device
        tensor = torch.tensor([ids], device=device)
        with parallel.autocast(self.place):
            logits = self.model(tensor[:, :-1])[0, -n:].float()  # (n, V)
        targets = tensor[0, -n:]
        logprobs = logits.log_softmax(-1).gather(1, targets[:, None])
        return Score(float(logprobs.double().sum()), n, bool((logits.argmax(-1) == targets).all()))


class _Text:
    """One text while it is written: decodes, and holds back what may be the beginning of a stop text."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = tokenizer.decoder()
        self._eot = tokenizer.eot_id
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.ids: list[int] = []
        self.pieces: list[str] = []
        self.ended_by: Literal["end", "stop", "length"] | None = None

    def push(self, token: int) -> str:
        """Take the next token; return the text that is sure now."""
        if self.ended_by is not None:
            return ""
        if token == self._eot:
            self.ended_by = "end"
            return ""
        self.ids.append(token)
        return self._sure(self._held + self._decoder.push(token))

    def _sure(self, text: str) -> str:
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.ended_by, self._held = "stop", ""
            return self._give(text[: min(found)])
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        return self._give(text[: len(text) - held])

    def flush(self) -> str:
        """Return what was held back, at the end; nothing after a stop text."""
        if self.ended_by == "stop":
            return ""
        rest, self._held = self._held + self._decoder.flush(), ""
        return rest

    def _give(self, text: str) -> str:
        if text:
            self.pieces.append(text)
        return text
