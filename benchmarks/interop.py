"""Compare imported and exported models with the programs that they are from or for: token ids and logits.

    python benchmarks/interop.py nanogpt CHECKOUT
    python benchmarks/interop.py llama2c CHECKOUT stories260K.bin tok512.bin text.txt
    python benchmarks/interop.py llmc CHECKOUT
    python benchmarks/interop.py megatron
    python benchmarks/interop.py tensorflow

Each command runs the program itself on random weights of unusual shapes (llama2.c: on the published weights) and prints
the largest difference between its logits and ours. With --python the program runs in another interpreter, in which it
is installed: torch for nanoGPT and llm.c, megatron-core, tensorflow. llama2.c is compiled with cc. llama.cpp,
transformers, onnxruntime and Keras are covered by the test suite.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from firstlight.convert import get_exporter, read_model
from firstlight.lm import LM
from firstlight.model import GPT, ModelConfig

V, T = 61, 23
IDS = [[(7 * i + 3) % V for i in range(T)], [(5 * i + 1) % V for i in range(T)]]


def random_model(family: str, **shape: object) -> LM:
    """Build a model with random norms and biases too, and with large logits."""
    config = ModelConfig.model_validate({"family": family, "vocab_size": V, "block_size": 32, "init_std": 0.3, **shape})
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    return LM(model.eval(), None)


def ours(lm: LM) -> np.ndarray:
    """Compute the logits of IDS with Firstlight."""
    with torch.no_grad():
        logits: np.ndarray = lm.model(torch.tensor(IDS)).numpy()
    return logits


def run(python: str, code: str, *arguments: object) -> None:
    """Run another program's code in an interpreter that has it installed."""
    done = subprocess.run([python, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


def print_row(what: str, reference: np.ndarray, logits: np.ndarray) -> None:
    """Print a row of the table."""
    print(f"| {what} | {np.abs(reference - logits).max():.1e} | {np.abs(logits).max():.1f} |", flush=True)


NANOGPT = """
import sys, json, numpy as np, torch
sys.path.insert(0, sys.argv[1])
from model import GPT, GPTConfig
if sys.argv[2] == "write":
    torch.manual_seed(0)
    args = dict(n_layer=3, n_head=3, n_embd=24, block_size=32, bias=sys.argv[5] == "True", vocab_size=61, dropout=0.0)
    model = GPT(GPTConfig(**args)).eval()
    for p in model.parameters():
        p.data.normal_(0, 0.3)
    held = {"model": model.state_dict(), "model_args": args, "iter_num": 7, "best_val_loss": 1.0, "config": {}}
    torch.save(held, sys.argv[3])
else:
    held = torch.load(sys.argv[3], map_location="cpu")
    model = GPT(GPTConfig(**held["model_args"])).eval()
    model.load_state_dict(held["model"])
ids = torch.tensor(json.loads(sys.argv[6]))
with torch.no_grad():
    np.save(sys.argv[4], torch.stack([model(ids[:, : i + 1])[0][:, -1] for i in range(ids.shape[1])], 1).numpy())
"""


def nanogpt(args: argparse.Namespace, folder: Path) -> None:
    """Import a checkpoint that nanoGPT's own model wrote, and load an exported one in nanoGPT."""
    checkout, python = args.files[0], args.python
    for bias in (True, False):
        run(python, NANOGPT, checkout, "write", folder / "ckpt.pt", folder / "out.npy", bias, json.dumps(IDS))
        imported, path = read_model(str(folder / "ckpt.pt"))
        print_row(f"nanoGPT's ckpt.pt in, bias={bias}", np.load(folder / "out.npy"), ours(imported.to_lm(path)))
    lm = random_model("gpt2", n_layer=2, n_head=5, n_embd=20, mlp="gelu")
    get_exporter("nanogpt").export(lm, folder / "ours.pt")
    run(python, NANOGPT, checkout, "read", folder / "ours.pt", folder / "out.npy", "", json.dumps(IDS))
    print_row("nanoGPT's ckpt.pt out", np.load(folder / "out.npy"), ours(lm))


LLAMA2C = r"""
#define TESTING
#include "run.c"
int main(int argc, char** argv) {  /* checkpoint, tokenizer, text file, positions; prints ids, then the loss */
    Transformer t; build_transformer(&t, argv[1]);
    Tokenizer words; build_tokenizer(&words, argv[2], t.config.vocab_size);
    FILE* f = fopen(argv[3], "rb"); fseek(f, 0, SEEK_END); long n = ftell(f); rewind(f);
    char* text = malloc(n + 1); text[fread(text, 1, n, f)] = 0;
    int* ids = malloc((n + 3) * sizeof(int)); int count;
    encode(&words, text, 1, 0, ids, &count);
    int limit = atoi(argv[4]); if (count > limit) count = limit;
    double loss = 0;
    for (int i = 0; i + 1 < count; i++) {
        float* logits = forward(&t, ids[i], i);
        double most = logits[0], sum = 0;
        for (int v = 1; v < t.config.vocab_size; v++) if (logits[v] > most) most = logits[v];
        for (int v = 0; v < t.config.vocab_size; v++) sum += exp(logits[v] - most);
        loss -= logits[ids[i + 1]] - most - log(sum);
    }
    for (int i = 0; i < count; i++) printf("%d ", ids[i]);
    printf("\n%.10f\n", loss / (count - 1));
}
"""


def llama2c(args: argparse.Namespace, folder: Path) -> None:
    """Compare token ids and perplexity of a text with those of run.c."""
    checkout, weights, vocab, text = map(Path, args.files)
    (folder / "ask.c").write_text(LLAMA2C, encoding="utf-8")
    build = ["cc", "-O2", "-w", "-I", str(checkout), "-o", str(folder / "ask"), str(folder / "ask.c"), "-lm"]
    subprocess.run(build, check=True)
    # Only the start of the text, without surrounding whitespace.
    (folder / "text").write_text(text.read_text(encoding="utf-8")[:4000].strip(), encoding="utf-8")
    (folder / weights.name).write_bytes(weights.read_bytes())
    (folder / vocab.name).write_bytes(vocab.read_bytes())
    output = subprocess.run(
        [str(folder / "ask"), str(weights), str(vocab), str(folder / "text"), "512"], capture_output=True, check=True
    ).stdout.split(b"\n")
    imported, path = read_model(str(folder / weights.name))
    lm = imported.to_lm(path)
    ids = list(map(int, output[0].split()))
    our_ids = lm.encode((folder / "text").read_text(encoding="utf-8"))[: len(ids)]
    with torch.no_grad():
        logits = lm.model(torch.tensor([ids]))[0, :-1].double()
    loss = float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])))
    print(
        f"| llama2.c: {len(ids)} ids {'equal' if ids == our_ids else 'DIFFER'}; perplexity "
        f"{np.exp(float(output[1])):.6f}, ours {np.exp(loss):.6f} | {abs(float(output[1]) - loss):.1e} | |"
    )


LLMC = """
import sys, json, types, numpy as np, torch
sys.path.insert(0, sys.argv[1])
import train_gpt2 as theirs
torch.manual_seed(0)
config = theirs.GPTConfig(block_size=32, n_layer=3, n_head=3, n_embd=24)
model = theirs.GPT(config).eval()
for p in model.parameters():
    p.data.normal_(0, 0.3)
    if sys.argv[5] == "bfloat16":  # the precision of the file
        p.data = p.data.bfloat16().float()
ids = torch.tensor(json.loads(sys.argv[4]))
with torch.no_grad():
    np.save(sys.argv[3], model(ids, ids)[0].float().numpy())
theirs.write_model(model, sys.argv[2], sys.argv[5])
"""


def llmc(args: argparse.Namespace, folder: Path) -> None:
    """Import a checkpoint that llm.c's train_gpt2.py wrote."""
    for dtype in ("float32", "bfloat16"):
        arguments = (folder / "m.bin", folder / "out.npy", json.dumps(IDS), dtype)
        run(args.python, LLMC, args.files[0], *arguments)
        imported, path = read_model(str(folder / "m.bin"))
        print_row(f"llm.c's checkpoint in, {dtype}", np.load(folder / "out.npy"), ours(imported.to_lm(path)))


MEGATRON = """
import sys, os, json, contextlib, numpy as np, torch
import torch.nn.functional as F
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29555", RANK="0", WORLD_SIZE="1")
torch.cuda.current_device = lambda: "cpu"  # its attention only needs the device's name
torch.distributed.init_process_group("gloo")
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel import random
from megatron.core.transformer.transformer_config import TransformerConfig
parallel_state.initialize_model_parallel()
random.CudaRNGStatesTracker.fork = lambda *_: contextlib.nullcontext()
held = torch.load(sys.argv[1] + "/release/mp_rank_00/model_optim_rng.pt", weights_only=False)
a = held["args"]
gelu = lambda x: F.gelu(x, approximate="tanh" if a.openai_gelu else "none")
config = TransformerConfig(
    num_layers=a.num_layers, hidden_size=a.hidden_size, ffn_hidden_size=a.ffn_hidden_size, kv_channels=a.kv_channels,
    num_attention_heads=a.num_attention_heads, num_query_groups=a.num_query_groups, normalization=a.normalization,
    layernorm_epsilon=a.norm_epsilon, gated_linear_unit=a.swiglu, activation_func=F.silu if a.swiglu else gelu,
    add_bias_linear=a.add_bias_linear, add_qkv_bias=a.add_qkv_bias, qk_layernorm=a.qk_layernorm,
    use_cpu_initialization=True, bias_activation_fusion=False, persist_layer_norm=False, attention_dropout=0.0,
    hidden_dropout=0.0, margs_softmax_fusion=False, apply_rope_fusion=False,
)
model = GPTModel(
    config, get_gpt_layer_local_spec(qk_layernorm=a.qk_layernorm, normalization=a.normalization),
    vocab_size=a.padded_vocab_size, max_sequence_length=a.max_position_embeddings, rotary_base=a.rotary_base,
    position_embedding_type=a.position_embedding_type,
    share_embeddings_and_output_weights=not a.untie_embeddings_and_output_weights,
).eval()
model.load_state_dict(held["model"])
ids = torch.tensor(json.loads(sys.argv[3]))
B, T = ids.shape
mask = torch.triu(torch.ones(1, 1, T, T, dtype=torch.bool), 1)
with torch.no_grad():
    np.save(sys.argv[2], model(ids, torch.arange(T).expand(B, T), mask).numpy())
"""
SHAPES = {
    "gpt2": {"n_layer": 2, "n_head": 5, "n_embd": 20, "d_ff": 50},
    "llama": {"n_layer": 3, "n_head": 6, "n_kv_head": 2, "n_embd": 20, "d_head": 6, "d_ff": 34},
    "modern": {"n_layer": 2, "n_head": 3, "n_kv_head": 1, "n_embd": 14, "d_head": 10, "d_ff": 40},
}


def megatron(args: argparse.Namespace, folder: Path) -> None:
    """Load an exported checkpoint in megatron-core's GPTModel, strictly."""
    for family, shape in SHAPES.items():
        lm = random_model(family, **shape)
        get_exporter("megatron").export(lm, folder / family)
        run(args.python, MEGATRON, folder / family, folder / "out.npy", json.dumps(IDS))
        print_row(f"Megatron-LM's checkpoint out, {family}", np.load(folder / "out.npy"), ours(lm))


TENSORFLOW = """
import sys, numpy as np, tensorflow as tf
tf.compat.v1.disable_eager_execution()
held = np.load(sys.argv[1])
names = [tf.compat.v1.get_variable(name, initializer=held[name]) for name in held.files]
with tf.compat.v1.Session() as session:
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver(names).save(session, sys.argv[2])
"""


def tensorflow(args: argparse.Namespace, folder: Path) -> None:
    """Import a checkpoint of GPT-2's variables, under OpenAI's names, that TensorFlow's Saver wrote."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "convert"))
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lm"))
    from reference_files import gpt2_variables

    lm = random_model("gpt2", n_layer=3, n_head=3, n_embd=24)
    np.savez(folder / "held.npz", **gpt2_variables(lm.model))
    (folder / "model").mkdir()
    run(args.python, TENSORFLOW, folder / "held.npz", folder / "model" / "model.ckpt")
    sizes = {"n_vocab": V, "n_ctx": 32, "n_embd": 24, "n_head": 3, "n_layer": 3}
    (folder / "model" / "hparams.json").write_text(json.dumps(sizes), encoding="utf-8")
    imported, path = read_model(str(folder / "model"))
    print_row("TensorFlow's checkpoint of GPT-2 in", ours(imported.to_lm(path)), ours(lm))


PROGRAMS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "nanogpt": nanogpt,
    "llama2c": llama2c,
    "llmc": llmc,
    "megatron": megatron,
    "tensorflow": tensorflow,
}


def main() -> None:
    """Parse the arguments and compare with one program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("files", nargs="*", help="checkout, weights and texts, see above")
    parser.add_argument("--python", default=sys.executable, help="interpreter in which the program is installed")
    args = parser.parse_args()
    print("| what | largest difference | largest logit |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        PROGRAMS[args.program](args, Path(folder))


if __name__ == "__main__":
    main()
