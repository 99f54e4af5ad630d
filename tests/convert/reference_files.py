"""Write small files of every external format, from the definitions of the formats and not with the tested code."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from tiny_lm import gpt

from firstlight.convert import read_model
from firstlight.lm import LM
from firstlight.model import GPT, to_hf_state_dict

V = 37


def model(family: str = "gpt2", **shape) -> GPT:
    return gpt(family, V, block_size=11, **shape)


def logits(lm: LM | GPT, n: int = 11) -> torch.Tensor:
    ids = torch.tensor([[(7 * i + 3) % V for i in range(n)], [(5 * i + 1) % V for i in range(n)]])
    with torch.no_grad():
        return (lm.model if isinstance(lm, LM) else lm)(ids)


def import_lm(path: Path) -> LM:
    """What is imported from a file or folder."""
    found, where = read_model(str(path))
    return found.to_lm(where)


def hf_weights(made: GPT) -> dict[str, np.ndarray]:
    """The weights in transformers' names and orientation."""
    return {name: tensor.detach().numpy().copy() for name, tensor in to_hf_state_dict(made).items()}


# llama2.c


def interleaved(weight: np.ndarray, d_head: int) -> np.ndarray:
    """From transformers' order of a head's rows, halves, to neighbours: row i of the first, row i of the second."""
    heads = weight.reshape(-1, d_head, weight.shape[1])
    half = d_head // 2
    made = np.empty_like(heads)
    made[:, 0::2], made[:, 1::2] = heads[:, :half], heads[:, half:]
    return made.reshape(weight.shape)


def llama_parts(made: GPT) -> dict[str, list[np.ndarray]]:
    """Each kind of weight, layer by layer, in llama2.c's names."""
    held, D = hf_weights(made), made.config.head_dim
    names = {
        "att_norm": "input_layernorm",
        "wq": "self_attn.q_proj",
        "wk": "self_attn.k_proj",
        "wv": "self_attn.v_proj",
        "wo": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "w1": "mlp.gate_proj",
        "w2": "mlp.down_proj",
        "w3": "mlp.up_proj",
    }
    parts = {k: [held[f"model.layers.{i}.{n}.weight"] for i in range(made.config.n_layer)] for k, n in names.items()}
    parts["wq"], parts["wk"] = ([interleaved(w, D) for w in parts[k]] for k in ("wq", "wk"))
    parts |= {"embed": [held["model.embed_tokens.weight"]], "norm": [held["model.norm.weight"]]}
    return parts | ({} if made.config.tied else {"head": [held["lm_head.weight"]]})


_ORDER = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


def write_llama2c(path: Path, made: GPT, version: int = 0, group: int = 4) -> Path:
    c, parts = made.config, llama_parts(made)
    sizes = (c.n_embd, c.ffn_dim, c.n_layer, c.n_head, c.kv_heads, c.vocab_size, c.block_size)
    if version == 0:
        head = struct.pack("<7i", *sizes[:5], sizes[5] if c.tied else -sizes[5], sizes[6])
        order = ["embed", "att_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3", "norm"]
        body = b"".join(w.astype("<f4").tobytes() for name in order for w in parts[name])
        body += np.ones(c.block_size * c.head_dim, "<f4").tobytes()
        path.write_bytes(head + body + b"".join(w.astype("<f4").tobytes() for w in parts.get("head", [])))
        return path
    head = struct.pack("<Ii7iB", 0x616B3432, version, *sizes, c.tied) + (
        struct.pack("<i", group) if version == 2 else b""
    )
    body = b"".join(w.astype("<f4").tobytes() for name in ("att_norm", "ffn_norm", "norm") for w in parts[name])
    for name in ("embed", *_ORDER, *(["head"] if "head" in parts else [])):
        for w in parts[name]:
            if version == 1:
                body += w.astype("<f4").tobytes()
                continue
            groups = w.reshape(-1, group)
            scale = np.abs(groups).max(1, keepdims=True) / 127
            body += np.round(groups / scale).astype("i1").tobytes() + scale.astype("<f4").tobytes()
    path.write_bytes(head.ljust(256, b"\0") + body)
    return path


def write_llama2c_tokenizer(path: Path, pieces: list[tuple[str, float]]) -> Path:
    body = b"".join(struct.pack("<fI", score, len(p.encode())) + p.encode() for p, score in pieces)
    path.write_bytes(struct.pack("<I", max(len(p.encode()) for p, _ in pieces)) + body)
    return path


def pieces(n: int = 290) -> list[tuple[str, float]]:
    """Pieces as llama2.c writes them: spaces for ▁, and line breaks around <s> and </s>."""
    words = [" t", "he", " the", "in", "an", " a", "nd", " and", "re", "er"]
    letters = [*" abcdefghijklmnopqrstuvwxyz,."]
    made = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0), *((f"<0x{b:02X}>", 0.0) for b in range(256))]
    made += [(w, -float(i)) for i, w in enumerate(words)]
    return (made + [(c, -float(len(words) + i)) for i, c in enumerate(letters)])[:n]


# llm.c


def write_llmc(path: Path, made: GPT, *, bf16: bool = False, padded: int = 40) -> Path:
    c, held = made.config, hf_weights(made)
    header = np.zeros(256, "<i4")
    header[:8] = 20240326, 5 if bf16 else 3, c.block_size, V, c.n_layer, c.n_head, c.n_embd, padded
    embed = np.zeros((padded, c.n_embd), np.float32)
    embed[:V] = held["transformer.wte.weight"]
    arrays = [embed, held["transformer.wpe.weight"]]
    for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
        for kind in ("weight", "bias"):
            layers = [held[f"transformer.h.{i}.{part}.{kind}"] for i in range(c.n_layer)]
            arrays += [w.T if w.ndim == 2 else w for w in layers]  # Linear keeps output × input
    arrays += [held["transformer.ln_f.weight"], held["transformer.ln_f.bias"]]
    with path.open("wb") as file:
        file.write(header.tobytes())
        for array in arrays:
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            file.write((tensor.bfloat16().view(torch.int16) if bf16 else tensor).numpy().tobytes())
    return path


def write_llmc_tokenizer(path: Path, tokens: list[bytes], eot: int) -> Path:
    header = np.zeros(256, "<u4")
    header[:4] = 20240328, 2, len(tokens), eot
    path.write_bytes(header.tobytes() + b"".join(bytes([len(t)]) + t for t in tokens))
    return path


# nanoGPT


def write_nanogpt(path: Path, made: GPT, *, bias: bool = True, compiled: bool = False) -> Path:
    c, state = made.config, {}
    for name, w in hf_weights(made).items():
        turned = w.ndim == 2 and ".h." in name
        if bias or not name.endswith(".bias"):
            state[("_orig_mod." if compiled else "") + name] = torch.from_numpy((w.T if turned else w).copy())
    for i in range(0 if bias else c.n_layer):  # the causal mask, where PyTorch had no flash attention
        state[f"transformer.h.{i}.attn.bias"] = torch.tril(torch.ones(c.block_size, c.block_size))[None, None]
    embedding = torch.from_numpy(hf_weights(made)["transformer.wte.weight"])
    state[("_orig_mod." if compiled else "") + "lm_head.weight"] = embedding
    args = dict(
        n_layer=c.n_layer,
        n_head=c.n_head,
        n_embd=c.n_embd,
        block_size=c.block_size,
        bias=bias,
        vocab_size=V,
        dropout=0.0,
    )
    held = {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "model_args": args,
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "mine"},
    }
    torch.save(held, path)
    return path


def write_meta(path: Path, characters: str) -> Path:
    stoi = {c: i for i, c in enumerate(characters)}
    path.write_bytes(pickle.dumps({"vocab_size": len(stoi), "itos": {i: c for c, i in stoi.items()}, "stoi": stoi}))
    return path


# OpenAI's GPT-1


def write_gpt1(folder: Path, made: GPT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    held, arrays = hf_weights(made), []
    arrays += [held["transformer.positions_embed.weight"], held["transformer.tokens_embed.weight"]]
    for i in range(made.config.n_layer):
        for part in ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"):
            weight, bias = (held[f"transformer.h.{i}.{part}.{kind}"] for kind in ("weight", "bias"))
            arrays += [weight[None] if weight.ndim == 2 else weight, bias]
    flat = np.concatenate([a.reshape(-1) for a in arrays]).astype(np.float32)
    for i, part in enumerate(np.array_split(flat, 10)):
        np.save(folder / f"params_{i}.npy", part)
    (folder / "params_shapes.json").write_text(json.dumps([list(a.shape) for a in arrays]))
    return folder


# OpenAI's GPT-2: TensorFlow's tensor bundle


def _varint(n: int) -> bytes:
    made = b""
    while n > 127:
        made, n = made + bytes([n & 127 | 128]), n >> 7
    return made + bytes([n])


def _block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A block of LevelDB's table: keys share the beginning of the one before; every 16th begins anew."""
    body, starts, before = b"", [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % 16 == 0:
            starts.append(len(body))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        body += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        before = key
    starts = starts or [0]
    return body + b"".join(struct.pack("<I", s) for s in starts) + struct.pack("<I", len(starts))


def write_bundle(prefix: Path, tensors: dict[str, np.ndarray]) -> None:
    data, pairs = b"", [(b"", b"\x08\x01\x1a\x02\x08\x01")]  # one file of data, little endian, version 1
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name], dtype="<f4")
        dims = b"".join(b"\x12" + _varint(len(d := b"\x08" + _varint(n))) + d for n in array.shape)
        entry = b"\x08\x01\x12" + _varint(len(dims)) + dims + b"\x20" + _varint(len(data))
        entry += b"\x28" + _varint(array.nbytes) + b"\x35" + b"\0\0\0\0"
        pairs.append((name.encode(), entry))
        data += array.tobytes()
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)
    file, handles = b"", []
    for i in range(0, len(pairs), 20):
        block = _block(pairs[i : i + 20])
        handles.append((pairs[min(i + 19, len(pairs) - 1)][0], _varint(len(file)) + _varint(len(block))))
        file += block + b"\0" + b"\0\0\0\0"
    places = []
    for block in (_block([]), _block(handles)):
        places.append(_varint(len(file)) + _varint(len(block)))
        file += block + b"\0" + b"\0\0\0\0"
    footer = b"".join(places).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(prefix.name + ".index").write_bytes(file + footer)


def gpt2_variables(made: GPT) -> dict[str, np.ndarray]:
    """The weights as OpenAI's code names them."""
    held = hf_weights(made)
    tensors = {
        "model/wte": held["transformer.wte.weight"],
        "model/wpe": held["transformer.wpe.weight"],
        "model/ln_f/g": held["transformer.ln_f.weight"],
        "model/ln_f/b": held["transformer.ln_f.bias"],
    }
    for i in range(made.config.n_layer):
        for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
            weight, bias = (held[f"transformer.h.{i}.{part}.{kind}"] for kind in ("weight", "bias"))
            name = f"model/h{i}/{part.replace('.', '/')}"
            tensors[f"{name}/{'g' if part.startswith('ln') else 'w'}"] = weight[None] if weight.ndim == 2 else weight
            tensors[f"{name}/b"] = bias
    return tensors


def write_gpt2(folder: Path, made: GPT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    c = made.config
    write_bundle(folder / "model.ckpt", gpt2_variables(made))
    sizes = dict(n_vocab=V, n_ctx=c.block_size, n_embd=c.n_embd, n_head=c.n_head, n_layer=c.n_layer)
    (folder / "hparams.json").write_text(json.dumps(sizes))
    return folder


def write_hf_bin(folder: Path, made: GPT, *, shards: int = 1, old: bool = False) -> Path:
    """A Hugging Face directory as it was before safetensors."""
    LM(made, None).save(folder)
    (folder / "model.safetensors").unlink()
    held = [(name, torch.from_numpy(w)) for name, w in hf_weights(made).items()]
    zipped = {"_use_new_zipfile_serialization": not old}
    if shards == 1:
        torch.save(dict(held), folder / "pytorch_model.bin", **zipped)
        return folder
    table = {}
    for i in range(shards):
        name = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin"
        torch.save(dict(held[i::shards]), folder / name, **zipped)
        table |= {key: name for key, _ in held[i::shards]}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder
