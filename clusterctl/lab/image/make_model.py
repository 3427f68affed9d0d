"""Make the lab's models: a tiny random Llama, and a tiny random Mixtral, which has experts. Both with the same
byte-level BPE tokenizer. Runs with the image's own Python.

Deterministic, so that the models' bytes are as much a function of the recipe as the rest of the image. Saved as several
safetensors shards with an index, as real models are: a node may miss one of them, which is worth rehearsing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCABULARY = 512
CONTEXT = 2048
SENTENCE = "The quick brown fox jumps over the lazy dog while sixteen nodes hum in the dark and answer as one."
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on one sentence: every byte is a token, so every text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SENTENCE], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",  # noqa: S106 (a token of the model)
        eos_token="<|end|>",  # noqa: S106
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def shape(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Two KV heads and four layers: the smallest that still divides into TP=2 and PP=2 (or PP=4)."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "dtype": torch.bfloat16,
    }


def make_dense(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A Llama."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**shape(tokenizer))).to(torch.bfloat16)


def make_sparse(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A Mixtral with eight experts, of which two work on a token."""
    torch.manual_seed(0)
    config = MixtralConfig(**shape(tokenizer), num_local_experts=8, num_experts_per_tok=2)
    return MixtralForCausalLM(config).to(torch.bfloat16)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, target: Path) -> None:
    """Write a model to `target`."""
    tokenizer.save_pretrained(target)
    model.save_pretrained(target, max_shard_size="600KB")
    for path in target.iterdir():
        path.chmod(0o644)  # safetensors are saved for their owner only
    shards = sorted(path.name for path in target.glob("*.safetensors"))
    if len(shards) < 2 or not (target / "model.safetensors.index.json").is_file():
        sys.exit(f"make_model: expected at least two shards and an index, got {shards}")
    print(target, *shards)


def main(target: Path) -> None:
    """Write the models below `target`, each in a directory of its name."""
    tokenizer = make_tokenizer()
    save(make_dense(tokenizer), tokenizer, target / "tiny")
    save(make_sparse(tokenizer), tokenizer, target / "tiny-moe")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
