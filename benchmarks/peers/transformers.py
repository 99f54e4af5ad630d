"""transformers: GPT2LMHeadModel under its Trainer, whose fused AdamW is its fastest way here."""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from shapes import Shape, Texts, Ways


def train(shape: Shape, step: Callable[[], None], ways: Ways) -> None:
    """Take steps through Trainer, with its defaults but for what the shape asks."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape.n_vocab,
        n_positions=shape.block_size,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )

    class Random(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            ids = torch.randint(shape.n_vocab, (shape.block_size,))
            return {"input_ids": ids, "labels": ids}

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            step()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=shape.batch,
            max_steps=1_000_000,
            use_cpu=ways.device == "cpu",
            report_to=[],
            disable_tqdm=True,
            torch_compile=ways.compiled,
            logging_steps=1000,
            save_strategy="no",
            bf16=ways.precision == "bf16",
        )
        model = GPT2LMHeadModel(config)
        Trainer(model=model, args=arguments, train_dataset=Random(), callbacks=[Told()]).train()


def generate(shape: Shape, texts: Texts, step: Callable[[], None], ways: Ways) -> None:
    """Write texts by its own generate with its dynamic cache, its fastest way here."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.n_vocab,
            n_positions=shape.block_size,
            n_embd=shape.n_embd,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            bos_token_id=0,
            eos_token_id=None,
            pad_token_id=0,
        )
    ).eval()
    model.to(ways.device, torch.bfloat16 if ways.precision == "bf16" else torch.float32)
    while True:
        ids = torch.randint(shape.n_vocab, (texts.batch, texts.prompt), device=ways.device)
        seen = torch.ones_like(ids)
        model.generate(ids, attention_mask=seen, max_new_tokens=texts.new, min_new_tokens=texts.new, do_sample=False)
        step()
