"""Writing a model directory: weights, config.json, tokenizer and model card, as transformers loads them."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from firstlight import tokenizer as tokenizers
from firstlight.errors import StorageError
from firstlight.files import atomic_file, write_atomic
from firstlight.files.run_names import short_name
from firstlight.files.text_lines import opening_word
from firstlight.lm.card import CARD, CardInfo, printable, write_card
from firstlight.lm.generation_config import GENERATION, GenerationConfig
from firstlight.model import HEADS_FILE, ModelConfig, count_parameters, hf_mismatch, to_hf_config
from firstlight.shell import command_in_folder
from firstlight.tokenizer import Codec, Tokenizer

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class Classifier:
    """The only head of a model, which classifies or scores texts or pairs.

    transformers has a class for it where it reads the last token; where it reads the mean of all, the model card shows
    how it is applied. That class would read the last token with the same weights, so they are not offered to it.

    Attributes:
        head: name of the head.
        labels: of its outputs; empty for a single score.
        scale: the scores that the outputs 0 and 1 stand for.
        is_pair: whether it reads two texts.
        reads_mean: whether it reads the mean of a text's tokens, not the last one.
    """

    head: str
    labels: Sequence[str]
    scale: tuple[float, float] | None = None
    is_pair: bool = False
    reads_mean: bool = False

    def update_config(self, table: dict[str, Any], pad_id: int | None) -> dict[str, Any]:
        """Return the config.json of the sequence classifier, which reads the last token of a text."""
        base = table["architectures"][0].removesuffix("LMHeadModel").removesuffix("ForCausalLM")
        names = list(self.labels) or ["LABEL_0"]
        return {
            **table,
            "architectures": [f"{base}ForSequenceClassification"],
            "pad_token_id": pad_id,
            "problem_type": "single_label_classification" if self.labels else "regression",
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
        }


def save_pretrained(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    facts: Mapping[str, Any],
    classifier: Classifier | None = None,
    codec: Codec | None = None,
    generation: GenerationConfig | None = None,
    card: CardInfo | None = None,
) -> None:
    """Write a directory that transformers loads without conversion.

    Heads of fine-tuned tasks are in a separate file. Where there is one classifier that reads the last token, the
    directory loads as the class for that, and as a causal language model all the same. A model that no transformers
    class can express (``firstlight.model.hf_mismatch``) is written for ``LM.load`` only.

    Args:
        folder: created if missing.
        config: complete.
        weights: as of ``to_hf_state_dict``.
        tokenizer: None for sequences that are not text.
        facts: rows of the model card, by name.
        classifier: the head, if it is a classifier.
        codec: the meaning of the ids where there is no tokenizer.
        generation: of the model that this one comes from: special ids and settings of generation to keep.
        card: what else the model card says.
    """
    table, generation_table = _config_tables(config, tokenizer or codec, generation)
    heads = {name: tensor for name, tensor in weights.items() if name.startswith("heads.")}
    body = {name: tensor for name, tensor in weights.items() if name not in heads}
    if heads:
        _write_weights(folder / HEADS_FILE, heads)
    if classifier is not None and not classifier.reads_mean:
        table = classifier.update_config(table, None if tokenizer is None else tokenizer.pad_id)
        body["score.weight"] = heads[f"heads.{classifier.head}.weight"]
    _write_weights(folder / WEIGHTS, body)
    write_atomic(folder / CONFIG, _json(table))
    write_atomic(folder / GENERATION, _json(generation_table))
    if tokenizer is not None:
        _save_tokenizer(tokenizer, folder, config)
    if codec is not None:
        tokenizers.save_codec(codec, folder)
    if heads and (classifier is None or classifier.reads_mean):
        facts = {**facts, "heads": f"in {HEADS_FILE}, which Firstlight reads and transformers does not"}
    info, vocab = card or CardInfo(), tokenizer or codec
    text = model_card(config, table, vocab, facts, info, classifier=classifier, has_heads=bool(heads))
    write_atomic(folder / CARD, text)


def text_files(
    config: ModelConfig, tokenizer: Tokenizer | None, generation: GenerationConfig | None = None
) -> dict[str, str]:
    """Return config.json, generation_config.json and the tokenizer's files as text, by name, for other formats."""
    table, generation_table = _config_tables(config, tokenizer, generation)
    files = {CONFIG: _json(table), GENERATION: _json(generation_table)}
    if tokenizer is not None:
        with tempfile.TemporaryDirectory() as folder:
            _save_tokenizer(tokenizer, Path(folder), config)
            files |= {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}
    return files


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, config: ModelConfig) -> None:
    # An imported model may lack end-of-text, which then has an id beyond its vocabulary.
    pads = tokenizer.eot_id < (config.vocab_size or 0)
    tokenizer.save(folder, model_max_length=config.block_size, pads=pads)


def _config_tables(
    config: ModelConfig, vocab: Tokenizer | Codec | None, generation: GenerationConfig | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    kept = generation or GenerationConfig()
    ids, table = kept.tables(vocab, config.vocab_size or 0, config.block_size)
    return {**to_hf_config(config, eot_id=None), **ids}, table


def _json(table: Mapping[str, Any]) -> str:
    return json.dumps(table, indent=1) + "\n"


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a temporary file and rename it: a model that was loaded from ``path`` may still read its weights there."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    with atomic_file(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            if "os error" in str(error):  # of the operating system: the folder's context says what to do
                raise
            raise StorageError(f"cannot be written: {error}", where=path) from error


def model_card(
    config: ModelConfig,
    table: Mapping[str, Any],
    vocab: Tokenizer | Codec | None,
    facts: Mapping[str, Any],
    info: CardInfo,
    *,
    classifier: Classifier | None = None,
    has_heads: bool = False,
) -> str:
    """Return the text of the model card of a directory.

    Args:
        config: complete.
        table: config.json.
        vocab: the tokenizer, or the codec of ids that are not text.
        facts: rows of its table, by name.
        info: what else it says.
        classifier: the head, if it is a classifier.
        has_heads: whether the model has heads of fine-tuned tasks.
    """
    tokenizer = vocab if isinstance(vocab, Tokenizer) else None
    c, count, mismatch = config, count_parameters(config), hf_mismatch(config)
    rows = {
        "family": f"{c.family} ({table['architectures'][0]})",
        "parameters": f"{count.total:,} ({count.embedding:,} of them embeddings and head)",
        "shape": f"{c.n_layer} layers, {c.n_head} heads, width {c.n_embd}, block size {c.block_size}",
        "tokenizer": "none" if tokenizer is None else f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens",
        **({} if classifier is None or not classifier.labels else {"labels": ", ".join(classifier.labels)}),
        **({} if mismatch is None else {"transformers": f"cannot load this model: {mismatch}"}),
        **({} if info.base_model is None else {"base model": info.base_model}),
        **{str(name): str(value) for name, value in facts.items()},
    }
    if vocab is not None and not isinstance(vocab, Tokenizer):
        tag = "unconditional-image-generation" if vocab.sequence_length else None
    elif has_heads and (classifier is None or classifier.reads_mean):
        tag = info.pipeline_tag
    else:
        tag = "text-generation" if classifier is None else "text-classification"
    use = "It generates what is likely given its training data, which may be wrong, biased, or copied from it."
    if classifier is not None:
        use = "It answers what is likely given its training data, which may be wrong or biased."
        if classifier.scale is not None:
            low, high = classifier.scale
            use += f" Its output is from 0 to 1; the score is {low:g} + {high - low:g} × output."
        if classifier.reads_mean:
            use += (
                f" Its head, in {HEADS_FILE}, reads the mean of a text's tokens, for which transformers has no class: "
                "a `pipeline` would not load it. Rows of a table are labelled by "
                f"`{command_in_folder('predict', '.', 'rows.tsv')}`."
            )
        if not c.tied and not classifier.reads_mean:
            use += (
                " transformers reports lm_head.weight as unexpected: it is the head of the language model, which the "
                "classifier does not use, and `generate` of Firstlight and further fine-tuning do."
            )
    elif has_heads:
        command = command_in_folder("predict", ".", "rows.tsv")
        use = f"Its heads answer rows of a table: `{command}`, with `--task NAME` where it has several tasks."
    # Another program would load a head that it does not have with random weights.
    is_theirs = mismatch is None and not (has_heads and (classifier is None or classifier.reads_mean))
    code = _FIRSTLIGHT_EXAMPLE if mismatch is not None else _example(tokenizer, classifier, info)
    library = "transformers" if is_theirs else "firstlight"
    return write_card(info, library=library, pipeline_tag=tag, rows=rows, code=code, use=use)


_FIRSTLIGHT_EXAMPLE = 'from firstlight.lm import LM\n\nmodel = LM.load(".")'
_LOAD_EXAMPLE = """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".")"""


_MEAN_EXAMPLE = """import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder)
head = load_file(f"{{folder}}/{file}")["heads.{head}.weight"]
batch = tokenizer({texts}, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
outputs = (hidden * mask).sum(1) / mask.sum(1) @ head.T  # the head reads the mean of a text's tokens
print({shown})"""


def mean_example(head: str, folder: str, texts: str, has_classes: bool) -> str:
    """Return Python that applies a head which reads the mean of a text's tokens, with transformers.

    Args:
        head: its name.
        folder: of the model, as a Python expression.
        texts: arguments of the tokenizer, as Python: a list of texts, or a pair.
        has_classes: whether its outputs are logits of classes.
    """
    shown = "outputs.softmax(-1)" if has_classes else "outputs"
    return _MEAN_EXAMPLE.format(folder=folder, file=HEADS_FILE, head=head, texts=texts, shown=shown)


def _example(tokenizer: Tokenizer | None, classifier: Classifier | None, info: CardInfo) -> str:
    """Return Python that runs the model with transformers."""
    if tokenizer is None:
        return _LOAD_EXAMPLE
    in_chinese = list(info.languages)[:1] == ["zh"]
    if classifier is not None:
        one, other = ("一句话。", "另一句话。") if in_chinese else ("A text.", "Another one.")
        if classifier.reads_mean:
            quoted = f'"{one}", "{other}"' if classifier.is_pair else f'["{one}", "{other}"]'
            return mean_example(classifier.head, repr("."), quoted, len(classifier.labels) > 0)
        texts = f'[{{"text": "{one}", "text_pair": "{other}"}}]' if classifier.is_pair else f'["{one}", "{other}"]'
        head = 'classify = pipeline("text-classification", model=".")'
        return f"from transformers import pipeline\n\n{head}\nprint(classify({texts}))"
    prompt = json.dumps(printable(info.prompt) or opening_word(info.sample) or "The", ensure_ascii=False)
    if tokenizer.chat_template is not None:
        prompt = f'[{{"role": "user", "content": "{"你好！" if in_chinese else "Hello!"}"}}]'
    head = 'generate = pipeline("text-generation", model=".")'
    call = f'generate({prompt}, do_sample=True)[0]["generated_text"]'
    return f"from transformers import pipeline\n\n{head}\nprint({call})"


def portable_tasks(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the tables of tasks.json without the folders of this machine, for a directory that is shared."""
    found = []
    for table in tables:
        data = dict(table["data"]) if isinstance(table.get("data"), Mapping) else {}
        names = {key: _local_name(data[key]) for key in ("train", "valid", "test") if data.get(key) is not None}
        found.append({**table, "data": {**data, **names, "folder": ""}})
    return found


def _local_name(value: Any) -> Any:
    if isinstance(value, list):
        return [_local_name(name) for name in value]
    return short_name(value) if isinstance(value, str) else value
