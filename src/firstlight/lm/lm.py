"""A model together with its tokenizer: load, save, score, generate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from firstlight import parallel, progress
from firstlight.errors import CompatibilityError, UsageError
from firstlight.lm import load
from firstlight.lm.card import CardInfo
from firstlight.lm.decoding import DecodingEngine
from firstlight.lm.generation_config import GenerationConfig
from firstlight.lm.request import FinishReason, Request
from firstlight.lm.sampling import GenerateSettings
from firstlight.lm.save import save_pretrained
from firstlight.lm.score import Score, score_ids
from firstlight.lm.streamer import IdStreamer, TextStreamer
from firstlight.lm.weights import read_weights
from firstlight.model import GPT, ModelConfig, to_hf_state_dict
from firstlight.model.quantized import to_int8
from firstlight.tokenizer import Codec, Tokenizer, describe_unknown

_CACHE_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}  # of their keys and values


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated text.

    Attributes:
        prompt: the text that it continues.
        text: up to a stop string and without it.
        ids: generated tokens, with the last one of a stop string, without end-of-text.
        finish_reason: end-of-text, a stop string, or the limit of tokens.
        logprobs: of ``ids`` at the temperature, before filters, in nats; empty unless they were asked for.
    """

    prompt: str
    text: str
    ids: list[int]
    finish_reason: FinishReason
    logprobs: list[float] = field(default_factory=list)


class LM:
    """A GPT with its tokenizer.

    Args:
        model: on its device.
        tokenizer: None for sequences that are not text.
        device_context: device and precision of scoring; by default fp32 where the model is.
        source: where it was loaded from.
        generation: special ids and settings of generation of the model's directory; its end tokens end a text, besides
            the tokenizer's end-of-text.
        codec: the meaning of the ids of sequences that are not text.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer | None,
        *,
        device_context: parallel.DeviceContext | None = None,
        source: Path | None = None,
        generation: GenerationConfig | None = None,
        codec: Codec | None = None,
    ) -> None:
        self.model, self.tokenizer, self.source, self.codec = model, tokenizer, source, codec
        self.device_context = device_context or parallel.DeviceContext(
            next(model.parameters()).device, "fp32", False, torch.get_num_threads(), 0, 1, {}
        )
        eot_id = -1 if self.vocab is None else self.vocab.eot_id
        self.generation = generation or GenerationConfig()
        self.eos_ids = self.generation.eos_ids | (frozenset() if eot_id < 0 else {eot_id})

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    @property
    def vocab(self) -> Tokenizer | Codec | None:
        """The tokenizer, or the codec of sequences that are not text."""
        return self.tokenizer or self.codec

    @classmethod
    def load_fp32(cls, name: str | Path) -> "LM":
        """Load onto the CPU in fp32, without changing this process's threads and precision.

        Raises:
            UsageError: ``name`` is not a model.
            CheckpointError: it is damaged, or of an unsupported model type.
            TokenizerError: its tokenizer is damaged.
        """
        folder = load.locate(name)
        with progress.task("load the model"):
            config, table = load.read_config(folder)
            tokenizer = load.read_tokenizer(folder)
            codec = None if tokenizer is not None else load.load_codec(folder, config)
            load.check_manifest(folder)
            model = load.build_model(*read_weights(folder, config))
        if tokenizer is not None and tokenizer.vocab_size > (model.config.vocab_size or 0):
            progress.warn(
                f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}: "
                "texts with one of the others cannot be read"
            )
        generation = GenerationConfig.read(folder, table, model.config.vocab_size or 0)
        return cls(model.eval(), tokenizer, source=folder, generation=generation, codec=codec)

    @classmethod
    def load(cls, name: str | Path, *, device: str = "auto", precision: str = "auto", int8: bool = False) -> "LM":
        """Load a run (its best checkpoint, else its latest), a checkpoint, a Hugging Face directory or a hub name.

        The weights are cast to the precision; ``to`` leaves them as they are. With ``int8`` matrices are quantised and
        the rest is in fp32: such a model generates and scores, and cannot be saved.

        Raises:
            UsageError: ``name`` is not a model, or this machine lacks the device or precision; or int8 and another.
            CheckpointError: it is damaged, or of an unsupported model type.
            TokenizerError: its tokenizer is damaged.
        """
        hardware = parallel.HardwareSettings.model_validate({"device": device, "precision": precision})
        device_context = parallel.resolve_hardware(hardware)
        if int8 and precision not in ("auto", "fp32"):
            raise UsageError("int8 cannot be combined with another precision", found=precision, expected="auto or fp32")
        lm = cls.load_fp32(name)
        if int8:
            return lm.quantize_int8().to(device_context)
        load.cast_parameters(lm.model, device_context.dtype)
        return lm.to(device_context)

    def without_heads(self) -> "LM":
        """Return the language model alone, without heads of fine-tuned tasks; it shares this one's weights."""
        body = {name: tensor for name, tensor in self.model.state_dict().items() if not name.startswith("heads.")}
        return LM(
            load.build_model(self.config, body).eval(),
            self.tokenizer,
            device_context=self.device_context,
            source=self.source,
            generation=self.generation,
            codec=self.codec,
        )

    def quantize_int8(self) -> "LM":
        """Quantise the matrices to int8, in place: faster generation, slightly different numbers."""
        to_int8(self.model)
        return self

    def to(self, device_context: parallel.DeviceContext) -> "LM":
        """Move to a device; scoring then computes in its precision, as training does."""
        self.model.to(device_context.device)
        self.device_context = device_context
        return self

    def save(self, folder: str | Path, facts: Mapping[str, Any] | None = None, card: CardInfo | None = None) -> None:
        """Write a Hugging Face directory, in fp32.

        Args:
            folder: created if missing.
            facts: further rows of the model card.
            card: what else it says.

        Raises:
            UsageError: the model is quantised to int8, which is not exact.
        """
        embed: torch.nn.Module = self.model.embed
        if not isinstance(embed, torch.nn.Embedding) and not self.model.factors:
            raise UsageError("int8 models cannot be saved", where=self.source, fix="Load it without int8.")
        weights = {name: tensor.float().cpu() for name, tensor in to_hf_state_dict(self.model).items()}
        save_pretrained(
            Path(folder),
            self.config,
            weights,
            self.tokenizer,
            facts or {},
            codec=self.codec,
            generation=self.generation,
            card=card,
        )

    def encode(self, text: str) -> list[int]:
        """Encode a text, preceded by the model's begin-of-text token, if it has one.

        An empty text becomes that token, or end-of-text, after which a new text starts.

        Raises:
            UsageError: this model has no tokenizer.
            CompatibilityError: the text has a token that the model does not have.
        """
        tokenizer = self._require_tokenizer()
        begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        return self._check_ids([*begin, *tokenizer.encode(text)] or [self.start_id])

    @cached_property
    def start_id(self) -> int:
        """The token before a text: begin-of-text, else end-of-text of the text before, else a line break.

        An imported model may have been trained without end-of-text, which then has an id beyond its vocabulary.

        Raises:
            UsageError: this model has no tokenizer.
        """
        tokenizer, V = self._require_tokenizer(), self.config.vocab_size or 0
        return next(i for i in [tokenizer.start_id, *tokenizer.encode("\n")[:1], 0] if i < V)

    def _require_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UsageError("the model has no tokenizer, so it cannot read or generate text", where=self.source)
        return self.tokenizer

    def _check_ids(self, ids: list[int]) -> list[int]:
        V = self.config.vocab_size or 0
        if ids and max(ids) >= V:
            raise CompatibilityError(
                "the tokenizer has a token that the model does not have",
                where=self.source,
                found=f"{self._require_tokenizer().tokens()[max(ids)]!r}, id {max(ids)}",
                expected=f"ids below {V}",
                fix="Use the model's own tokenizer, or a text without this token.",
            )
        return ids

    def generate(
        self, prompts: str | Sequence[str], settings: GenerateSettings | None = None, *, with_logprobs: bool = False
    ) -> list[Generated]:
        """Continue each prompt, ``num_samples`` times.

        A text depends on the seed, its prompt and its index in the result, never on the other texts.

        Args:
            prompts: one or several texts.
            settings: of generation.
            with_logprobs: whether log-probabilities of the generated tokens are computed; one of end-of-text is last.

        Raises:
            UsageError: this model has no tokenizer.
            CompatibilityError: a prompt has a token that the model does not have.
            CheckpointError: the model's logits are not finite.
        """
        settings = settings or GenerateSettings()
        prompts = [prompts] if isinstance(prompts, str) else prompts
        repeated = [prompt for prompt in prompts for _ in range(settings.num_samples)]
        ids = [self.encode(prompt) for prompt in repeated]
        sinks = [self._text_streamer(prompt, settings) for prompt in ids]
        requests = [
            Request(prompt, settings, sink, random_stream=i, with_logprobs=with_logprobs)
            for i, (prompt, sink) in enumerate(zip(ids, sinks, strict=True))
        ]
        self._run(requests)
        return [
            Generated(text, sink.text, sink.ids, request.finish_reason or "length", request.logprobs)
            for text, sink, request in zip(repeated, sinks, requests, strict=True)
        ]

    def count_unknown_ids(self, ids: Sequence[int]) -> int:
        """Count the unknown tokens among ids."""
        unknown_id = None if self.tokenizer is None else self.tokenizer.unknown_id
        return sum(i == unknown_id for i in ids)

    def report_generated(self, texts: Sequence[Sequence[int]]) -> None:
        """Say how many of the generated tokens are unknown ones, which their text leaves out."""
        n, total = sum(map(self.count_unknown_ids, texts)), sum(map(len, texts))
        if n:
            progress.notice(f"{n:,} of the {total:,} generated tokens are unknown (<unk>), which the text leaves out")

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], settings: GenerateSettings | None = None, *, below: int | None = None
    ) -> list[list[int]]:
        """Continue each prompt of ids, which is not empty, ``num_samples`` times; return the new ids.

        Args:
            prompts: ids.
            settings: all but ``stop``.
            below: sample among the ids below this one only.

        Raises:
            CheckpointError: the model's logits are not finite.
        """
        settings = settings or GenerateSettings()
        repeated = [list(prompt) for prompt in prompts for _ in range(settings.num_samples)]
        sinks = [IdStreamer(self.eos_ids) for _ in repeated]
        self._run(
            [
                Request(prompt, settings, sink, random_stream=i, below=below)
                for i, (prompt, sink) in enumerate(zip(repeated, sinks, strict=True))
            ]
        )
        return [sink.ids for sink in sinks]

    def engine(self, **options: Any) -> DecodingEngine:
        """Return a decoding engine for this model; ``options`` are those of ``DecodingEngine``."""
        device_type = next(self.model.parameters()).device.type
        return DecodingEngine(self.model, **{"max_cache_bytes": _CACHE_BYTES.get(device_type, 1 << 30), **options})

    def _run(self, requests: Sequence[Request]) -> None:
        """Run requests until all have ended; those with similar prompts start together."""
        engine = self.engine()
        for request in sorted(requests, key=lambda request: -len(request.prompt)):
            engine.add(request)
        for _ in engine.run():
            pass

    def stream(self, prompt: str, settings: GenerateSettings | None = None) -> Iterator[str]:
        """Continue ``prompt``, yielding text as it is generated; joined, it is the first text of ``generate``.

        Raises:
            UsageError, CompatibilityError, CheckpointError: as ``generate``.
        """
        settings = settings or GenerateSettings()
        ids = self.encode(prompt)
        streamer = self._text_streamer(ids, settings)
        engine = self.engine()
        engine.add(Request(ids, settings, streamer))
        for _ in engine.run():
            if new := streamer.take():
                yield new
        self.report_generated([streamer.ids])

    def _text_streamer(self, ids: list[int], settings: GenerateSettings) -> TextStreamer:
        return TextStreamer(self._require_tokenizer(), ids, settings.stop, self.eos_ids)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Score each continuation given its context; with an empty context, as the start of a text.

        Text is tokenised as a whole, as when it is generated: scored are the tokens of context + continuation from
        the first one that is not a token of the context alone. White space at the end of a context belongs to the
        continuation. Contexts longer than the block size lose their start. An unknown token counts with its own
        log-probability, as in lm-evaluation-harness, which says nothing about the text that it stands for: a warning
        says where there are any.

        Raises:
            UsageError: this model has no tokenizer.
            CompatibilityError: a text has a token that the model does not have.
        """
        tokenizer = self._require_tokenizer()
        unknown = tokenizer.encode_counted([continuation for _, continuation in pairs])
        counts = unknown.unknown_counts(tokenizer.unknown_id).tolist()
        if any(counts):
            found = describe_unknown(unknown.unknown, len(unknown.ids))
            progress.warn(
                f"{sum(map(bool, counts)):,} of {len(pairs):,} continuations have text that the tokenizer does not "
                f"know, on which a log-likelihood says nothing, so they cannot be compared: {found}"
            )
        split = [self._split_at_border(context, continuation) for context, continuation in pairs]
        scores = score_ids(self.model, split, self.device_context)
        return [replace(score, unk_tokens=n) for score, n in zip(scores, counts, strict=True)]

    def _split_at_border(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        tokenizer = self._require_tokenizer()
        # Byte-level BPE merges a space with the word after it.
        before = tokenizer.encode(context.rstrip())
        whole = self._check_ids(tokenizer.encode(context + continuation))
        n = next(
            (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
        )
        first = [self.start_id] if n == 0 or tokenizer.bos_id is not None else []
        return [*first, *whole[:n]], whole[n:]
