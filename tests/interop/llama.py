"""Llamas of every family that Ballot reads, tiny and random: written by transformers, read by Ballot, and back."""

import json
import pathlib
import sys
import unittest

from comparison import ModelTest  # first: it mends sys.path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SMALL = dict(
    vocab_size=211, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, initializer_range=0.2,
)
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# By family, what differs. `rope` goes where this transformers keeps it.
FAMILIES = {
    "llama-2": dict(num_key_value_heads=4, rope_theta=10000.0),
    "llama-3": dict(rope_theta=500000.0, bos_token_id=1, eos_token_id=2),
    "llama-3.1": dict(rope_theta=500000.0, rope=LLAMA3_ROPE, eos_token_id=[2, 5, 9]),
    "llama-3.2": dict(rope_theta=500000.0, rope=dict(LLAMA3_ROPE, factor=32.0), tie_word_embeddings=True, head_dim=16),
    "tinyllama": dict(num_key_value_heads=1, rope_theta=10000.0),
    "smollm2": dict(num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, rope_theta=100000.0,
                    bos_token_id=0, eos_token_id=0),
    "linear": dict(rope_theta=10000.0, rope={"rope_type": "linear", "factor": 4.0}),
    "attention-bias": dict(rope_theta=10000.0, attention_bias=True),
    "mlp-bias": dict(rope_theta=10000.0, mlp_bias=True, tie_word_embeddings=True),
}


def config_of(family):
    settings = {**SMALL, **FAMILIES[family]}
    theta, rope = settings.pop("rope_theta"), settings.pop("rope", None)
    if "rope_parameters" in LlamaConfig().to_dict():
        settings["rope_parameters"] = {"rope_type": "default", **(rope or {}), "rope_theta": theta}
    else:
        settings.update(rope_theta=theta, rope_scaling=rope)
    return LlamaConfig(**settings)


def random_llama(family):
    torch.manual_seed(len(family))
    model = LlamaForCausalLM(config_of(family))
    with torch.no_grad():  # transformers' are zero
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.2)
    return model


def use_older_keys(family):
    def change(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config.pop("rope_parameters", None)
        config["rope_theta"] = FAMILIES[family]["rope_theta"]
        config["rope_scaling"] = FAMILIES[family].get("rope")
        path.write_text(json.dumps(config))
    return change


class Llamas(ModelTest):
    model_class = LlamaForCausalLM

    def test_every_family(self):
        for family in FAMILIES:
            for change in (None, use_older_keys(family)):
                with self.subTest(family=family, older_keys=change is not None):
                    self.compare(random_llama(family), change)

    def test_every_stored_type(self):
        for dtype in (torch.float16, torch.bfloat16):
            with self.subTest(dtype=dtype):
                self.compare(random_llama("llama-3"), dtype=dtype)

    def test_a_model_cut_into_many_files(self):
        self.compare(random_llama("llama-3.1"), max_shard_size="40KB")


if __name__ == "__main__":
    ModelTest.logits, ModelTest.ballot = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
    unittest.main(argv=sys.argv[:1], verbosity=2)
