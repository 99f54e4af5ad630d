"""transformers: GPT2LMHeadModel with Trainer and its fused AdamW."""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from shapes import GenerationWorkload, RunOptions, Shape


def train(shape: Shape, step: Callable[[], None], options: RunOptions) -> None:
    """Train with Trainer, with its defaults except for the shape's settings."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape.vocab_size,
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

    class RandomTokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            ids = torch.randint(shape.vocab_size, (shape.block_size,))
            return {"input_ids": ids, "labels": ids}

    class StepCallback(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            step()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=shape.batch,
            max_steps=1_000_000,
            use_cpu=options.device == "cpu",
            report_to=[],
            disable_tqdm=True,
            torch_compile=options.compiled,
            logging_steps=1000,
            save_strategy="no",
            bf16=options.precision == "bf16",
        )
        model = GPT2LMHeadModel(config)
        Trainer(model=model, args=arguments, train_dataset=RandomTokens(), callbacks=[StepCallback()]).train()


def generate(shape: Shape, workload: GenerationWorkload, step: Callable[[], None], options: RunOptions) -> None:
    """Generate with its generate method and its dynamic cache."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.block_size,
            n_embd=shape.n_embd,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            bos_token_id=0,
            eos_token_id=None,
            pad_token_id=0,
        )
    ).eval()
    model.to(options.device, torch.bfloat16 if options.precision == "bf16" else torch.float32)
    while True:
        ids = torch.randint(shape.vocab_size, (workload.batch, workload.prompt), device=options.device)
        mask = torch.ones_like(ids)
        model.generate(
            ids, attention_mask=mask, max_new_tokens=workload.new, min_new_tokens=workload.new, do_sample=False
        )
        step()
