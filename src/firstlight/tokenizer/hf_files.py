"""Read what a Hugging Face folder says about its tokenizer outside tokenizer.json, as transformers 5 does.

Added tokens are in ``added_tokens_decoder`` of tokenizer_config.json; older folders have them in added_tokens.json, and
the names of special tokens in special_tokens_map.json, which then overrides tokenizer_config.json. Files of chat
templates override the ones in tokenizer_config.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from firstlight.errors import TokenizerError
from firstlight.files import read_json_object
from firstlight.files.limits import read_bounded
from firstlight.tokenizer.added_tokens import NewToken

TOKENIZER_CONFIG, SPECIAL_MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
TEMPLATE, TEMPLATE_JSON, TEMPLATES = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
SIDE_FILES = (TOKENIZER_CONFIG, SPECIAL_MAP, ADDED, TEMPLATE, TEMPLATE_JSON)

# The special tokens of transformers' classes where tokenizer_config.json does not name them.
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
CLASS_TOKENS: dict[str, dict[str, str]] = {
    "GPT2Tokenizer": _GPT2,
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "OpenAIGPTTokenizer": {"unk_token": "<unk>"},
    "BertTokenizer": {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
}
_MODEL_CLASSES = {
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "llama": "LlamaTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
}
_LISTS = ("extra_special_tokens", "additional_special_tokens")


@dataclass(frozen=True, slots=True)
class HFFiles:
    """What the files next to a tokenizer say.

    Attributes:
        config: tokenizer_config.json.
        model: config.json of the model.
        special: special tokens by name, such as ``eos_token``; those of the class where the files name none.
        added: added tokens with their ids, and special tokens without.
        extra_special: further special tokens.
        chat_template: a Jinja template, or several by name.
    """

    config: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    special: dict[str, str] = field(default_factory=dict)
    added: list[NewToken] = field(default_factory=list)
    extra_special: list[str] = field(default_factory=list)
    chat_template: str | dict[str, str] | None = None

    @property
    def class_name(self) -> str | None:
        """The tokenizer's class without ``Fast``; that of the model's type where none is named."""
        return _class_name(self.config, self.model)

    def with_defaults(self, special: Mapping[str, str]) -> "HFFiles":
        """Name further special tokens, where the files do not."""
        named = {key: token for key, token in special.items() if key not in self.config}
        return replace(self, special={**named, **self.special})

    def flag(self, key: str, default: bool) -> bool:
        """Return a key of tokenizer_config.json that is true or false."""
        value = self.config.get(key)
        return default if value is None else bool(value)


def read_hf_files(folder: Path) -> HFFiles:
    """Read the files next to a tokenizer, each where it exists.

    Raises:
        TokenizerError: a damaged file.
    """
    path = folder / TOKENIZER_CONFIG
    config, model = _read(path), _read(folder / "config.json")
    decoder = config.get("added_tokens_decoder")
    special_map = {} if decoder is not None else _read(folder / SPECIAL_MAP)
    names = {**config, **special_map}
    special, flags = _named_tokens(names, path), {}
    extra = _token_list([value for key in _LISTS for value in _as_list(names.get(key))], path)
    for key, value in names.items():
        if isinstance(value, dict) and key in special:
            flags[special[key]] = _token(value, path, special=True)
    flags |= {token.content: token for token in extra}
    if decoder is not None:
        added = _added_of_decoder(decoder, path)
    else:
        is_special = {*special.values(), *(token.content for token in extra)}
        added = _added_of_json(_read(folder / ADDED), folder / ADDED, is_special)
    known = {token.content for token in added}
    named = dict.fromkeys([*special.values(), *(token.content for token in extra)])
    added += [flags.get(name, NewToken(name)) for name in named if name not in known]
    defaults = CLASS_TOKENS.get(_class_name(config, model) or "", {})
    special |= {key: token for key, token in defaults.items() if key not in names}
    template = _read_templates(folder, config.get("chat_template"))
    return HFFiles(config, model, special, added, [token.content for token in extra], template)


def _class_name(config: dict[str, Any], model: dict[str, Any]) -> str | None:
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    if isinstance(name, str):
        return name.removesuffix("Fast")
    return _MODEL_CLASSES.get(str(model.get("model_type")))


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path, TokenizerError) if path.is_file() else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []


def _named_tokens(names: dict[str, Any], path: Path) -> dict[str, str]:
    """Collect the keys that name a special token: a text, or an object with its content."""
    found = {}
    for key, value in names.items():
        if key.endswith("_token") and isinstance(value, str | dict):
            found[key] = value if isinstance(value, str) else _token(value, path, special=True).content
    return {key: token for key, token in found.items() if token}


def _token_list(values: list[Any], path: Path) -> list[NewToken]:
    return [NewToken(v) if isinstance(v, str) else _token(v, path, special=True) for v in values if v]


def _token(value: Any, path: Path, *, special: bool, id: int | None = None) -> NewToken:
    """Read an added token that is stored as an object."""
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, str) or not content:
        raise TokenizerError("has an added token without its text", where=path, found=str(value)[:60])
    keys = ("single_word", "lstrip", "rstrip", "normalized")
    flags = {key: bool(value.get(key, False)) for key in keys}
    flags["normalized"] = bool(value.get("normalized", not special))
    return NewToken(content, id, special=special, **flags)


def _added_of_decoder(decoder: Any, path: Path) -> list[NewToken]:
    if not isinstance(decoder, dict) or not all(str(key).isascii() and str(key).isdigit() for key in decoder):
        raise TokenizerError("added_tokens_decoder is not an object of tokens by id", where=path)
    return [
        _token(value, path, special=bool(isinstance(value, dict) and value.get("special")), id=int(key))
        for key, value in sorted(decoder.items(), key=lambda item: int(item[0]))
    ]


def _added_of_json(table: dict[str, Any], path: Path, special: set[str]) -> list[NewToken]:
    bad = next((name for name, i in table.items() if not name or type(i) is not int or i < 0), None)
    if bad is not None:
        raise TokenizerError("is not a table of ids by token", where=path, found=f"{bad!r}: {str(table[bad])[:40]}")
    return [
        NewToken(token, i, special=token in special, normalized=token not in special)
        for token, i in sorted(table.items(), key=lambda item: item[1])
    ]


def _read_templates(folder: Path, configured: Any) -> str | dict[str, str] | None:
    files = {"default": folder / TEMPLATE} if (folder / TEMPLATE).is_file() else {}
    files |= {path.stem: path for path in sorted((folder / TEMPLATES).glob("*.jinja"))}
    templates = {name: _read_template(path) for name, path in files.items()}
    if not templates:
        value = _read(folder / TEMPLATE_JSON).get("chat_template") if configured is None else configured
        templates = _parse_templates(value, folder / TOKENIZER_CONFIG)
    return templates["default"] if list(templates) == ["default"] else templates or None


def _parse_templates(value: Any, path: Path) -> dict[str, str]:
    """Read the value of ``chat_template``: a template, a table of them, or a list of names and templates."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}
    if not isinstance(value, dict) or not all(isinstance(t, str) for pair in value.items() for t in pair):
        raise TokenizerError(
            "has a chat template that cannot be read",
            where=f"{path}: chat_template",
            found=str(value)[:60],
            expected="a template, or a list of objects with name and template",
        )
    return value


def _read_template(path: Path) -> str:
    data = read_bounded(path, error=TokenizerError)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"is not UTF-8: {error.reason} at byte {error.start:,}", where=path, fix="Save it as UTF-8, or remove it."
        ) from error
