"""GPT-2s, tiny and random: written by transformers, read by Ballot, and back."""

import pathlib
import sys
import unittest

from comparison import ModelTest  # first: it mends sys.path

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

SHAPES = {
    "as-published": dict(n_embd=48, n_head=4, n_layer=3, bos_token_id=210, eos_token_id=210),
    "untied": dict(n_embd=60, n_head=6, n_layer=2, n_inner=100, tie_word_embeddings=False, eos_token_id=[3, 4]),
}


def random_gpt2(shape):
    torch.manual_seed(len(shape))
    model = GPT2LMHeadModel(GPT2Config(vocab_size=211, n_positions=64, initializer_range=0.2, **SHAPES[shape]))
    with torch.no_grad():  # transformers' are zero and one
        for name, parameter in model.named_parameters():
            if name.endswith(".bias") or ".ln_" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def name_as_the_hub_does(folder):
    """The published files: no "transformer.", and masks beside the weights."""
    path = folder / "model.safetensors"
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(path).items()}
    tensors["h.0.attn.bias"] = torch.tril(torch.ones(1, 1, 64, 64))
    save_file(tensors, path, {"format": "pt"})


class Gpt2s(ModelTest):
    model_class = GPT2LMHeadModel

    def test_every_shape(self):
        for shape in SHAPES:
            with self.subTest(shape=shape):
                self.compare(random_gpt2(shape))

    def test_the_names_of_the_hub(self):
        self.compare(random_gpt2("as-published"), name_as_the_hub_does)

    def test_every_stored_type(self):
        for dtype in (torch.float16, torch.bfloat16):
            with self.subTest(dtype=dtype):
                self.compare(random_gpt2("as-published"), dtype=dtype)

    def test_a_model_cut_into_many_files(self):
        self.compare(random_gpt2("untied"), max_shard_size="40KB")


if __name__ == "__main__":
    ModelTest.logits, ModelTest.ballot = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
    unittest.main(argv=sys.argv[:1], verbosity=2)
