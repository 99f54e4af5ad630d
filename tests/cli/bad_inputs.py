"""The table of bad inputs: what is typed in a folder with what ``world`` and ``OTHER_FILES`` have, and what is said."""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MODEL = "run/checkpoints/step-00000004"
SMALL = "tokenizer.kind=byte model.n_layer=1 model.n_head=2 model.n_embd=16 model.block_size=16"

# The header of four bytes in NumPy's format.
NPY = b"\x93NUMPY\x01\0v\0" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }".ljust(117) + b"\n"

OTHER_FILES: dict[str, bytes] = {
    "empty.txt": b"",
    "blank.txt": b" \n\n\t\n",
    "short.txt": b"ab",
    "bad.txt": b"good \xff\xfe text\n",
    "wide.txt": "hello\n".encode("utf-16-le"),
    "half.jsonl": b'{"text": "one two three"}\n{"text": \n',
    "odd.jsonl": b'{"body": "one two three"}\n',
    "table.csv": b"title,body\na,b\n",
    "cut.txt.gz": gzip.compress(b"some text " * 500)[:40],
    "pictures/a.png": b"\x89PNG",
    "ids.npy": NPY + bytes([0, 1, 2, 3]),
    "cut.npy": NPY + bytes([0, 1, 2]),
    "mine/data/precious.txt": b"not to be replaced",
    "misspelt.toml": b'[run]\ncorpus = ["text.txt"]\n[model]\nn_layers = 2\n',
    "wrong-type.toml": b'[run]\ncorpus = ["text.txt"]\n[model]\nn_layer = "two"\n',
    "broken.toml": b'[run]\ncorpus = ["text.txt"]\n[model\nn_layer = 2\n',
    "bert/config.json": b'{"model_type": "bert"}',
    "sizeless/config.json": b'{"model_type": "gpt2"}',
    "broken/config.json": b"{",
    "ranks.tiktoken": b"IQ== 0\n",
    "good.vec": b"the 1 2\ncat 3 4\nsat 5 6\n",
    "cut.vec": b"3 2\nthe 1 2\ncat 3 4\n",
    "model.gguf": b"GGUF\x03\0\0\0",
    "evil.kv": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
}


def flip(path: str, at: int = -1) -> Callable[[], object]:
    """Return a harm that changes one bit of a file."""

    def harm() -> None:
        data = bytearray(Path(path).read_bytes())
        data[at] ^= 1
        Path(path).write_bytes(data)

    return harm


def put(path: str, at: int, value: int) -> Callable[[], object]:
    """Return a harm that sets one byte of a file."""

    def harm() -> None:
        data = bytearray(Path(path).read_bytes())
        data[at] = value
        Path(path).write_bytes(data)

    return harm


def cut(path: str, n_bytes: int) -> Callable[[], object]:
    """Return a harm that takes bytes from the end of a file."""
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:-n_bytes])


def write(path: str, text: str) -> Callable[[], object]:
    """Return a harm that replaces a file."""
    return lambda: Path(path).write_text(text, encoding="utf-8")


def remove(path: str) -> Callable[[], object]:
    """Return a harm that removes a file or folder."""
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def foreign_tokenizer(folder: str) -> Callable[[], object]:
    """Return a harm that puts another tokenizer in the place of a store's own."""
    return lambda: shutil.copytree("chars", folder, dirs_exist_ok=True)


def apart() -> None:
    """Copy a checkpoint out of its run."""
    shutil.copytree(MODEL, "model")


def spoil_all_checkpoints() -> None:
    """Take the weights of every checkpoint away."""
    for folder in Path("run/checkpoints").iterdir():
        (folder / "model.safetensors").unlink()


def begin() -> None:
    """Leave what a run leaves that is killed while it prepares."""
    Path("begun").mkdir()
    Path("begun/.lock").touch()
    Path("begun/.firstlight-run").write_text('{"kind": "pretrain"}', encoding="utf-8")
    shutil.copytree("store", "begun/data")


def change_manifest() -> None:
    """Let a manifest say another thing than it was written with."""
    path = Path("store/manifest.json")
    table = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**table, "vocab_size": 258}), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Case:
    """One bad input.

    Attributes:
        line: what is typed after ``firstlight``.
        code: the exit code.
        says: parts of the message, in order.
        harm: done before.
    """

    line: str
    code: int
    says: tuple[str, ...]
    harm: Callable[[], object] | None = None


PRETRAIN = [
    Case("pretrain", 2, ("nothing to train on", "CORPUS", "firstlight quickstart")),
    Case("pretrain txt.txt --out new", 2, ("txt.txt: no such file, folder or corpus", "text.txt")),
    Case("pretrain tinyshakespere --out new", 2, ("tinyshakespere", "Did you mean tinyshakespeare?")),
    # What is no corpus says what it is, and what was probably wanted.
    Case("pretrain run/data --out new", 2, ("run/data: is the token store of the run run", "run/run.toml --out")),
    Case(
        "pretrain text.txt store --out new", 2, ("store: is a token store", "trained on alone: ", "firstlight pretrain")
    ),
    Case("pretrain run@2 --out new", 2, ("run@2: is a checkpoint of the run run", "--resume", "--from")),
    Case(f"pretrain text.txt {MODEL} --out new", 2, (f"{MODEL}: is a checkpoint of the run run", "--from")),
    Case("pretrain chars --out new", 2, ("chars: is a tokenizer", "tokenizer.path=")),
    Case("pretrain run/tokenizer --out new", 2, ("is a tokenizer", "tokenizer.path=")),
    Case("pretrain chars/tokenizer.json --out new", 2, ("is a tokenizer", "tokenizer.path=")),
    Case("data prepare run --out new", 2, ("run: is a run directory", "--from")),
    Case("evaluate run --text run/data", 2, ("is the token store of the run run",)),
    Case("evaluate run --text model.gguf", 2, ("model.gguf: is a file of weights", "firstlight import")),
    Case("tokenizer train chars --out new", 2, ("chars: is a tokenizer",)),
    Case("pretrain nothere --resume", 2, ("nothere: no such run, and not a corpus", "firstlight runs")),
    Case("pretrain rnu --resume", 2, ("rnu: no such run", "Did you mean run?")),
    # Only names that are alike are suggested, and one of another table that is the same.
    Case("pretrain text.txt --out new data.block_size=8", 2, ("data.block_size: unknown", "mean model.block_size?")),
    Case("pretrain text.txt --out new tokenizer.kind=bytee", 2, ("tokenizer.kind: ", "Did you mean 'byte'?")),
    Case("pretrain text.txt --out new data.verify=ture", 2, ("data.verify: ", "Did you mean 'true'?")),
    Case("pretrain text.txt --out new model.n_layer＝x", 2, ("model.n_layer: ", "found 'x'")),
    Case("pretrain －－resume", 2, ("－－resume: ", "Write --resume")),
    Case("pretrain '*.nothing' --out new", 2, ("*.nothing: matches no file",)),
    Case("pretrain empty.txt --out new", 1, ("empty.txt: holds no text",)),
    Case("pretrain blank.txt --out new", 1, ("blank.txt: holds no text",)),
    Case(f"pretrain short.txt --out new {SMALL}", 1, ("short.txt: holds too little text", "found 3 tokens")),
    Case("pretrain pictures --out new", 1, ("pictures/a.png: is not a readable PNG or JPEG",)),
    Case("pretrain ids.npy --out new", 2, ("ids.vocab_size: is required for ids", "one more than the highest")),
    Case("pretrain ids.npy --out new ids.vocab_size=3", 1, ("ids.npy: index 3: has an id", "found 3", "0 to 2")),
    Case("pretrain cut.npy --out new ids.vocab_size=9", 1, ("cut.npy: is truncated or too long", "131 bytes", "132")),
    Case("pretrain ids.npy text.txt --out new", 2, ("a corpus is text, ids or images", "ids.npy: ids, text.txt")),
    Case("pretrain bad.txt --out new", 1, ("bad.txt: byte 5: is not UTF-8", "found ff", "corpus.on_bad_bytes=replace")),
    Case("pretrain wide.txt --out new", 1, ("wide.txt: looks like UTF-16 (little endian)", "iconv")),
    Case("pretrain half.jsonl --out new", 1, ("half.jsonl:2: is not valid JSON",)),
    Case("pretrain odd.jsonl --out new", 1, ("odd.jsonl:1: has no field 'text'", "body", "corpus.text_field=body")),
    Case('pretrain odd.jsonl --out new --text-field "it\'s"', 1, ('has no field "it\'s"', "corpus.text_field=body")),
    Case("pretrain table.csv --out new", 1, ("table.csv: has no column 'text'", "found columns title, body")),
    Case("pretrain cut.txt.gz --out new", 1, ("cut.txt.gz: is damaged or truncated",)),
    Case("pretrain text.txt --out new --on-bad-bytes ignore", 2, ("corpus.on_bad_bytes", "'skip'", "'ignore'")),
    Case(
        "pretrain text.txt --out new tokenizer.vocab_size=5000",
        1,
        ("tokenizer.vocab_size: the text is too short for a vocabulary of that size", "found 5000", "at most 290"),
    ),
    Case(
        "pretrain text.txt --out new tokenizer.kind=word tokenizer.vocab_size=5000",
        1,
        ("tokenizer.vocab_size: too few distinct words in the text", "found 5000", "at most 14"),
    ),
    Case(
        "pretrain text.txt --out new tokenizer.kind=byte model.block_size=100000",
        2,
        ("model.block_size: the training text is shorter than one block", "100000", "below 7402"),
    ),
    Case(
        f"pretrain text.txt --out new {SMALL} model.vocab_size=300",
        1,
        ("model.vocab_size", "found 300", "expected 257", "Leave model.vocab_size out"),
    ),
    Case("pretrain text.txt --out new data.weights=[1,2]", 1, ("data.weights: needs one weight per source", "found 2")),
    Case("pretrain text.txt --out new model.n_layers=2", 2, ("model.n_layers: unknown", "Did you mean model.n_layer?")),
    Case("pretrain text.txt --out new n_layer=2", 2, ("n_layer: unknown", "Did you mean model.n_layer?")),
    Case("pretrain text.txt --out new model.n-layer=2", 2, ("model.n-layer: unknown", "Did you mean model.n_layer?")),
    Case("pretrain text.txt --out new modle.n_layer=2", 2, ("modle: unknown setting", "Did you mean model?")),
    Case("pretrain misspelt.toml --out new", 2, ("misspelt.toml: model.n_layers: unknown", "mean model.n_layer?")),
    Case("pretrain wrong-type.toml --out new", 2, ("wrong-type.toml: model.n_layer", "integer", "'two'")),
    Case("pretrain broken.toml --out new", 2, ("broken.toml: is not valid TOML", "line 3")),
    Case("pretrain missing.toml --out new", 2, ("missing.toml: no such settings file",)),
    Case(
        "pretrain misspelt.toml text.txt --out new",
        2,
        ("misspelt.toml: a RUN.toml must be the only input", "run.corpus"),
    ),
    Case("pretrain text.txt --out new model.n_layer=two", 2, ("model.n_layer", "integer", "'two'")),
    Case("pretrain text.txt --out new optim.lr=-1", 2, ("optim.lr", "greater than 0", "found -1")),
    Case("pretrain text.txt --out new optim.betas=[0.9,1.5]", 2, ("optim.betas.1", "less than 1", "found 1.5")),
    Case("pretrain text.txt --out new train.steps=0", 2, ("train.steps", "'auto'", "found 0")),
    Case("pretrain text.txt --out new data.valid_ratio=1.5", 2, ("data.valid_ratio", "less than 1", "found 1.5")),
    Case("pretrain text.txt --out new optim.name=sgd", 2, ("optim.name: unknown optimizer 'sgd'", "adamw, muon")),
    Case(
        "pretrain text.txt --out new optim.schedule.name=cosin",
        2,
        ("optim.schedule.name: unknown schedule 'cosin'", "Did you mean 'cosine'?"),
    ),
    Case("pretrain text.txt --out new model.family=gpt5", 2, ("model.family", "'gpt1'", "'modern'", "'gpt5'")),
    Case(
        "pretrain text.txt --out new train.convergence.evaluations=3 optim.schedule.name=cosine",
        2,
        ("optim.schedule.name: needs a number of steps", "found cosine", "train.steps"),
    ),
    Case(
        "pretrain text.txt --out new train.convergence.evaluations=3 train.eval_every=0",
        2,
        ("train.convergence.evaluations", "found train.eval_every=0", "Set train.eval_every"),
    ),
    Case(
        "pretrain text.txt --out new model.n_embd=100 model.n_head=3",
        2,
        ("model: n_embd=100 is not a multiple of n_head=3", "set d_head"),
    ),
    Case(
        "pretrain text.txt --out new model.dropout=0.1",
        2,
        ("model: the family modern does not support dropout", "use gpt1"),
    ),
    Case(
        "pretrain text.txt --out new model.family=gpt2 model.n_kv_head=2",
        2,
        ("the family gpt2 does not support grouped-query", "llama"),
    ),
    Case("pretrain text.txt --out new hardware.device=cuda", 2, ("hardware.device", "CUDA", "hardware.device=cpu")),
    Case("pretrain text.txt --out new hardware.device=gpu0", 2, ("hardware.device", "found gpu0", "cuda:N")),
    Case(
        "pretrain text.txt --out new hardware.device=cpu hardware.precision=fp16",
        2,
        ("hardware.precision: fp16 needs a GPU", "found device cpu", "bf16 or fp32"),
    ),
    Case("pretrain text.txt --out new --preset quikstart", 2, ("unknown preset 'quikstart'", "mean 'quickstart'?")),
    Case("generate run x --temp 1", 2, ("no such option: --temp", "Did you mean '--temperature'?")),
    Case("pretrain text.txt --lr 3e-4", 2, ("no such option: --lr", "Did you mean 'optim.lr=3e-4'?")),
    Case("pretrain text.txt --train.steps=9", 2, ("no such option: --train.steps", "'train.steps=9'?")),
    Case("pretrain text.txt --preset lora", 2, ("'lora' is a preset of the command finetune", "nano")),
    Case("pretrain text.txt --preset gpt2", 2, ("unknown preset 'gpt2'", "Did you mean 'gpt2-124m'?")),
    Case("presets gpt2", 2, ("unknown preset 'gpt2'", "Did you mean 'gpt2-124m'?")),
    Case("pretrain text.txt optim.schedule=linear", 2, ("is a table", "Did you mean optim.schedule.name=linear?")),
    Case("pretrain text.txt optim=adamw", 2, ("optim: ", "table", "Did you mean optim.name=adamw?")),
    Case("generate runn@20 hi", 2, ("no such run or model", "Did you mean run@20?")),
    Case("pretrain text.txt --presett quickstart", 2, ("no such option: --presett", "--preset", "pretrain --help")),
    Case("pretrain text.txt run.store=store --out new", 2, ("run.store: a corpus and a token store",)),
    Case("pretrain text.txt --out text.txt", 2, ("text.txt: exists and is not a run directory", "another --out")),
    Case("pretrain text.txt --out store", 2, ("store: exists and is not a run directory",)),
    Case("pretrain text.txt --out mine", 2, ("mine: exists and is not a run directory", "another --out")),
    Case("pretrain text.txt --out text.txt/below", 1, ("text.txt/below: a file exists where a folder is needed",)),
    Case("pretrain text.txt --out run", 1, ("run: already holds a run", "--resume")),
    Case("pretrain run", 2, ("run: is a run directory", "--resume", "run.toml")),
    Case("pretrain run --resume --out other", 2, ("run: two run directories", "--out other", "--from")),
    Case("pretrain run --resume --dry-run", 2, ("--dry-run --resume", "Remove one")),
    Case("pretrain run --resume model.n_layer=2", 1, ("cannot change", "model.n_layer = 2 (the run has 1)", "--from")),
    Case("pretrain run --resume train.stepz=9", 2, ("train.stepz: unknown", "Did you mean train.steps?")),
    Case("pretrain odd.jsonl --out run --resume", 1, ("run: holds a run on other data", "odd.jsonl", "--out")),
    Case(
        "pretrain begun --resume",
        2,
        ("begun: ended while its data was prepared", "with its corpus and --resume"),
        begin,
    ),
    Case("pretrain text.txt --from nothere --out new", 2, ("nothere: no such run or model",)),
    Case("pretrain text.txt --from pictures --out new", 2, ("pictures: not a model", "config.json")),
    Case("pretrain store --out new", 1, ("store: is not a complete token store",), remove("store/manifest.json")),
    Case("pretrain store --out new", 1, ("store/train.bin: 14802 bytes", "14804"), cut("store/train.bin", 2)),
    Case("pretrain store --out new", 1, ("store/train.idx", "type 99"), put("store/train.idx", 17, 99)),
    Case("pretrain store --out new", 1, ("store/train.bin: is truncated or", "29608"), put("store/train.idx", 17, 4)),
    Case("pretrain store --out new", 1, ("store: was made with another token",), foreign_tokenizer("store/tokenizer")),
    Case("pretrain store --out new", 1, ("tokenizer: no tokenizer here",), remove("store/tokenizer")),
]

QUICKSTART = [
    Case("quickstart missing.txt --out new", 2, ("missing.txt: no such file",)),
    Case("quickstart empty.txt --out new", 1, ("empty.txt: holds no text",)),
    Case(
        "quickstart text.txt --out new",
        1,
        ("tokenizer.vocab_size: the text is too short for a vocabulary", "at most 290"),
    ),
    Case("quickstart text.txt --out new model.n_layers=2", 2, ("Did you mean model.n_layer?",)),
    Case("quickstart odd.jsonl --out run", 1, ("run: holds a run on other data", "odd.jsonl")),
    Case("quickstart --preset nano", 2, ("no such option: --preset", "quickstart --help")),
]

VERIFY_RESUME = [
    Case("verify-resume", 2, ("missing argument", "RUN.toml")),
    Case("verify-resume missing.toml", 2, ("missing.toml: no such settings file",)),
    Case("verify-resume broken.toml", 2, ("broken.toml: is not valid TOML", "line 3")),
    Case("verify-resume run --steps 4 --stop-at 4", 2, ("--stop-at: must be before the last step", "--steps 4")),
    Case("verify-resume run --steps 1", 2, ("--steps", "greater than or equal to 2")),
    Case("verify-resume run model.n_layers=2", 2, ("Did you mean model.n_layer?",)),
    Case("verify-resume run n_layer", 2, ("n_layer: is not a setting", "key=value")),
]

GENERATE = [
    Case("generate", 2, ("missing argument 'RUN'", "generate --help")),
    Case("generate run --ids 1", 2, ("run: is a text model", "Use a prompt")),
    Case("generate run --image pictures/a.png", 2, ("run: is a text model",)),
    Case("probe run", 2, ("probe: no task is given", "RUN TASK.toml")),
    Case("generate nothere hi", 2, ("nothere: no such run or model", "firstlight quickstart")),
    Case("generate rnu hi", 2, ("rnu: no such run or model", "Did you mean run?")),
    Case("generate X.gguf hi", 2, ("X.gguf: no such file",)),
    Case("generate model.gguf hi", 2, ("model.gguf: not a model", "Import it first: ", "firstlight import")),
    Case("generate gpt2 hi", 2, ("gpt2: no such run or model", "Did you mean openai-community/gpt2?")),
    Case("predict absent text.txt", 2, ("absent: no such run or model", "firstlight finetune --help")),
    Case("generate text.txt hi", 2, ("text.txt: not a model",)),
    Case("generate store hi", 2, ("store: not a model", "config.json")),
    Case("generate run hi --max-new-tokens 0", 2, ("--max-new-tokens", "greater than or equal to 1", "found 0")),
    Case("generate run hi --max-new-tokens many", 2, ("--max-new-tokens", "integer")),
    Case("generate run hi --temperature -1", 2, ("--temperature", "greater than or equal to 0", "found -1")),
    Case("generate run hi --top-p 2", 2, ("--top-p", "less than or equal to 1", "found 2")),
    Case("generate run hi --topk 5", 2, ("no such option: --topk", "--top-k")),
    Case("generate run hi --prompts text.txt", 2, ("PROMPT and --prompts cannot be combined",)),
    Case("generate run --prompts missing.txt", 2, ("missing.txt: no such file", "one prompt per line")),
    Case("generate run --prompts empty.txt", 2, ("empty.txt: no prompts",)),
    Case("generate run --prompts bad.txt", 2, ("bad.txt: byte 5: is not UTF-8",)),
    Case("generate run hi --device cuda", 2, ("--device: this machine has no CUDA device", "--device cpu")),
    Case("generate run hi --device nowhere", 2, ("--device: unrecognised device", "found nowhere")),
    Case("generate bert hi", 1, ("bert/config.json: unsupported model type", "'bert'", "qwen3")),
    Case("generate sizeless hi", 1, ("sizeless/config.json", "n_layer")),
    Case("generate broken hi", 1, ("broken/config.json: is not valid JSON",)),
    Case(f"generate {MODEL} hi", 1, ("model.safetensors",), cut(f"{MODEL}/model.safetensors", 8)),
    Case(f"generate {MODEL} hi", 1, ("model.safetensors",), remove(f"{MODEL}/model.safetensors")),
    Case("generate run hi", 1, ("run: no intact checkpoint", "--restart"), spoil_all_checkpoints),
]

EVALUATE = [
    Case("evaluate", 2, ("missing argument 'RUN'",)),
    Case("evaluate nothere", 2, ("nothere: no such run or model",)),
    Case("evaluate run --text missing.txt", 2, ("missing.txt: no such file, folder or corpus",)),
    Case("evaluate run --text empty.txt", 1, ("empty.txt: holds no text",)),
    Case("evaluate run --text bad.txt", 1, ("bad.txt: byte 5: is not UTF-8",)),
    Case("evaluate run --stride 0", 2, ("--stride", "greater than or equal to 1")),
    Case("evaluate run --stride 100", 2, ("--stride: exceeds the model's block size", "found 100", "at most 16")),
    Case("evaluate run --device cuda", 2, ("--device: this machine has no CUDA device", "--device cpu")),
    Case("evaluate model", 2, ("model: the model is not in a run", "--text"), apart),
    Case("evaluate run --txt text.txt", 2, ("no such option: --txt", "--text")),
]

DATA = [
    Case("data foo", 2, ("no such command 'foo'", "data --help")),
    Case("data prepare --out new", 2, ("missing argument", "data prepare --help")),
    Case("data prepare text.txt", 2, ("missing option '--out'",)),
    Case("data prepare tokenizer.kind=byte --out new", 2, ("no corpus", "Name files")),
    Case("data prepare missing.txt --out new", 2, ("missing.txt: no such file",)),
    Case("data prepare empty.txt --out new", 1, ("empty.txt: holds no text",)),
    Case("data prepare bad.txt --out new", 1, ("bad.txt: byte 5: is not UTF-8", "corpus.on_bad_bytes=")),
    Case("data prepare half.jsonl --out new", 1, ("half.jsonl:2: is not valid JSON",)),
    Case("data prepare short.txt --out new tokenizer.kind=byte", 1, ("short.txt: holds too little text",)),
    Case("data prepare text.txt --out new tokenizer.kin=byte", 2, ("Did you mean tokenizer.kind?",)),
    Case("data prepare text.txt --out new tokenizer.vocab_size=200", 2, ("tokenizer.vocab_size", "257", "found 200")),
    Case("data prepare text.txt --out new tokenizer.vocab_size=9000", 1, ("tokenizer.vocab_size", "at most 290")),
    Case("data prepare text.txt --out new --tokenizer nothere", 1, ("nothere: no tokenizer here",)),
    Case("data prepare text.txt --out new --tokenizer text.txt", 1, ("text.txt: is not a readable tokenizer.json",)),
    Case("data prepare text.txt --out text.txt", 2, ("text.txt: is a file", "another --out")),
    Case("data prepare text.txt --out mine", 2, ("mine: exists and is not a token store", "found data")),
    Case("data prepare text.txt --out chars", 2, ("chars: exists and is not a token store", "tokenizer.json")),
    Case("data prepare text.txt --out text.txt/below", 1, ("text.txt/below: a file exists where a folder is needed",)),
    Case("data prepare text.txt --out store tokenizer.kind=char", 1, ("store: holds a token store made from other",)),
    Case(
        "data prepare text.txt --out store tokenizer.kind=byte data.seed=5", 1, ("found seed 1337", "expected seed 5")
    ),
    Case(f"data prepare text.txt --out {MODEL} tokenizer.kind=byte", 1, ("is not a token store",)),
    Case("data inspect nothere", 2, ("nothere: no such folder",)),
    Case("data inspect pictures", 1, ("pictures: is not a complete token store",)),
    Case("data inspect store --tokens -1", 2, ("--tokens", "greater than or equal to 0")),
    Case("data stats store", 1, ("store: is not a complete token store",), remove("store/manifest.json")),
    Case("data stats store --top 0", 2, ("--top", "greater than or equal to 1")),
    Case("data verify", 2, ("missing argument 'STORE'",)),
    Case("data verify nothere", 2, ("nothere: no such folder",)),
    Case("data verify store", 1, ("store/train.bin: bytes differ",), flip("store/train.bin", 100)),
    Case("data verify store", 1, ("store/train.idx: bytes differ",), put("store/train.idx", 17, 4)),
    Case("data verify store", 1, ("store/valid.bin: 1646 bytes", "1648"), cut("store/valid.bin", 2)),
    Case("data verify store", 1, ("store/manifest.json: missing", "incomplete"), remove("store/manifest.json")),
    Case("data verify store", 1, ("manifest.json: its contents differ",), change_manifest),
    Case("data verify store", 1, ("store: made with the tokenizer",), foreign_tokenizer("store/tokenizer")),
    Case("data verify store", 1, ("tokenizer.json: is not a readable",), write("store/tokenizer/tokenizer.json", "{")),
    Case("data verify run", 1, (f"{MODEL}/model.safetensors: bytes differ",), flip(f"{MODEL}/model.safetensors")),
]

TOKENIZER = [
    Case("tokenizer train --out new", 2, ("missing argument",)),
    Case("tokenizer train text.txt", 2, ("missing option '--out'",)),
    Case("tokenizer train missing.txt --out new", 2, ("missing.txt: no such file",)),
    Case("tokenizer train empty.txt --out new", 1, ("empty.txt: holds no text",)),
    Case("tokenizer train text.txt --out new tokenizer.vocab_size=9000", 1, ("tokenizer.vocab_size", "at most 290")),
    Case("tokenizer train text.txt --out new tokenizer.pattern=gpt5", 2, ("tokenizer.pattern", "qwen2", "'gpt5'")),
    Case("tokenizer train text.txt --out new tokenizer.path=chars", 2, ("tokenizer.path", "trained or loaded")),
    Case("tokenizer train text.txt --out text.txt", 2, ("text.txt: is a file", "another --out")),
    Case("tokenizer train text.txt --out text.txt/below tokenizer.kind=byte", 1, ("a file exists where a folder",)),
    Case("tokenizer train text.txt --out chars tokenizer.kind=byte", 2, ("chars: already has another tokenizer",)),
    Case("tokenizer import nothere --out new", 2, ("nothere: no such file or folder",)),
    Case("tokenizer import pictures --out new", 1, ("pictures: no tokenizer here",)),
    Case("tokenizer import text.txt --out new", 1, ("text.txt: is not a readable tokenizer.json",)),
    Case("tokenizer import ranks.tiktoken --out new", 1, ("ranks.tiktoken", "cl100k")),
    Case("tokenizer import store --out chars", 2, ("chars: already has another tokenizer", "another --out")),
    Case("tokenizer show nothere", 2, ("nothere: no such file or folder", "firstlight tokenizer train")),
    Case("tokenizer show pictures", 1, ("pictures: no tokenizer here",)),
    Case("tokenizer show chars", 1, ("chars/tokenizer.json",), write("chars/tokenizer.json", "{")),
    Case(
        "tokenizer show chars",
        1,
        ("tokenizer_config.json: is not valid JSON",),
        write("chars/tokenizer_config.json", "{"),
    ),
    Case("tokenizer encode chars", 2, ("missing argument 'TEXT'",)),
    Case("tokenizer encode nothere hi", 2, ("nothere: no such file or folder",)),
    Case("tokenizer decode chars 9999", 1, ("id outside the vocabulary", "found 9999", "0 to 17")),
    Case("tokenizer decode chars abc", 2, ("abc: not an id", "whole numbers")),
    Case("tokenizer decode chars 99999999999999999999999", 2, ("not an id",)),
    Case("tokenizer decode chars -- -1", 2, ("-1: not an id",)),
    Case("tokenizer compare chars", 2, ("missing option '--text'",)),
    Case("tokenizer compare nothere --text text.txt", 2, ("nothere: no such file or folder",)),
    Case("tokenizer compare chars --text empty.txt", 1, ("empty.txt: holds no text",)),
    Case("tokenizer vectors train --out new.vec", 2, ("missing argument",)),
    Case("tokenizer vectors train vectors.width=5 --out new.vec", 2, ("no corpus", "Name files")),
    Case("tokenizer vectors train text.txt --out new.pkl", 2, ("format of word vectors '.pkl'", ".safetensors")),
    Case("tokenizer vectors train text.txt --out store", 2, ("format of word vectors 'store'",)),
    Case("tokenizer vectors train text.txt --out new.vec vectors.size=5", 2, ("vectors.size", "unknown setting")),
    Case("tokenizer vectors train text.txt --out new.vec vectors.method=lsa", 2, ("vectors.method", "'lsa'")),
    Case(
        "tokenizer vectors train text.txt --out new.vec vectors.min_count=9999 vectors.method=glove",
        1,
        ("vectors.min_count: the text has too few frequent words", "found 9999", "Lower vectors.min_count"),
    ),
    Case("tokenizer vectors eval good.vec", 2, ("no evaluation data", "--similarity")),
    Case("tokenizer vectors eval nothere --similarity text.txt", 1, ("nothere: no such file",)),
    Case("tokenizer vectors eval cut.vec --similarity text.txt", 1, ("cut.vec:3: the number of words differs",)),
    Case(
        "tokenizer vectors eval evil.kv --similarity text.txt",
        1,
        ("evil.kv: refers to code, which is not run", "os.system"),
    ),
    Case("tokenizer vectors eval good.vec --similarity text.txt", 1, ("text.txt:2: is not a word pair with a score",)),
    Case(
        "tokenizer vectors eval good.vec --analogies text.txt",
        1,
        ("text.txt:1: is not an analogy question of four words",),
    ),
    Case(
        f"pretrain text.txt --out new {SMALL} model.embeddings=cut.vec", 1, ("cut.vec:3: the number of words differs",)
    ),
    Case(
        f"pretrain text.txt --out new {SMALL} model.embeddings=evil.kv",
        1,
        ("evil.kv: refers to code, which is not run",),
    ),
    Case(
        "pretrain text.txt --out new tokenizer.vocab_source=good.vec",
        2,
        ("tokenizer.vocab_source: applies to kind word, not bpe", "Leave it out"),
    ),
]

OTHERS = [
    Case("pretrian text.txt", 2, ("no such command 'pretrian'", "Did you mean 'pretrain'?")),
    Case("--foo", 2, ("no such option: --foo", "firstlight --help")),
    Case("doctor extra", 2, ("unexpected extra argument", "doctor --help")),
]

CASES = [*PRETRAIN, *QUICKSTART, *VERIFY_RESUME, *GENERATE, *EVALUATE, *DATA, *TOKENIZER, *OTHERS]
