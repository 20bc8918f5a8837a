"""Five steps of AdamW by PyTorch and by Ballot, on the same model, windows and rates, end at the same weights."""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import comparison  # noqa: F401 (first: it mends sys.path)

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

BALLOT = pathlib.Path(sys.argv[1]).resolve()
STEPS, BATCH, MICRO_BATCHES, LENGTH, SEED = 5, 3, 2, 24, 11
RATE, DECAY, WARMUP = 2e-3, 0.1, 3
VOCABULARY, TOKENS = 258, 3000  # of the byte tokenizer that `ballot init` writes

MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1)),
    "llama-tied-with-biases": lambda: LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.1, tie_word_embeddings=True,
        attention_bias=True, mlp_bias=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_embd=48, n_head=4, n_layer=3, n_positions=64, initializer_range=0.1,
        bos_token_id=256, eos_token_id=257)),
    "gpt2-untied": lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_head=2, n_layer=2, n_inner=96, n_positions=32, initializer_range=0.1,
        tie_word_embeddings=False, bos_token_id=256, eos_token_id=257)),
}

MASK = (1 << 64) - 1


def mix64(x):  # core/hash.h
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def window_start(sample):  # runtime/sampler.h
    hashed = mix64(mix64(mix64(SEED) ^ 0x73616D706C65) ^ sample)
    return hashed * (TOKENS - LENGTH) >> 64


def write_tokens(path, tokens):  # llm.c's format
    header = struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253)
    path.write_bytes(header + np.asarray(tokens, "<u2").tobytes())


def train_with_torch(model, tokens):
    """The losses, step by step; the model is left trained."""
    model.eval()  # no dropout
    # As Ballot's preset: norms and biases do not decay.
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP)
        first = step * BATCH * MICRO_BATCHES
        starts = [window_start(first + i) for i in range(BATCH * MICRO_BATCHES)]
        windows = torch.tensor([tokens[s:s + LENGTH + 1] for s in starts])
        logits = model(windows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


RUN = """
[model]
folder = "model"
[data]
train = "tokens.bin"
windows = "stream"
sequence_length = {length}
[train]
steps = {steps}
batch = {batch}
micro_batches = {micro_batches}
seed = {seed}
compute = "f32"
device = "cpu"
[schedule]
shape = "constant"
warmup_steps = {warmup}
[optimizer]
preset = "adamw"
rate = {rate}
weight_decay = {decay}
[group.hidden]
clip_norm = 0.0
[group.embedding]
clip_norm = 0.0
[group.head]
clip_norm = 0.0
[group.vector]
clip_norm = 0.0
[output]
folder = "run"
"""


class Finetune(unittest.TestCase):
    def run_ballot(self, folder, *words):
        done = subprocess.run([BALLOT, *words], capture_output=True, text=True, errors="replace", cwd=folder)
        self.assertEqual(done.returncode, 0, done.stderr)

    def compare(self, name):
        torch.manual_seed(5)
        model = MODELS[name]()
        tokens = torch.randint(0, VOCABULARY, (TOKENS,)).tolist()
        with tempfile.TemporaryDirectory() as path:
            folder = pathlib.Path(path)
            self.run_ballot(folder, "init", "--out", "bytes", "--hidden", "8", "--heads", "1", "--layers", "1")
            model.save_pretrained(folder / "model")
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(folder / "bytes" / file, folder / "model")
            write_tokens(folder / "tokens.bin", tokens)
            (folder / "run.toml").write_text(RUN.format(
                length=LENGTH, steps=STEPS, batch=BATCH, micro_batches=MICRO_BATCHES, seed=SEED, warmup=WARMUP,
                rate=RATE, decay=DECAY))
            self.run_ballot(folder, "train", "run.toml")
            found = load_file(folder / "run/checkpoints/latest/model.safetensors")
            lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
            found_losses = [line["loss_metrics/global_avg_loss"] for line in lines if line.get("type") == "step"]

        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        losses = train_with_torch(model, tokens)
        np.testing.assert_allclose(found_losses[-STEPS:], losses, rtol=2e-5)
        after = {key: value.detach() for key, value in model.named_parameters()}
        self.assertEqual(found.keys(), after.keys())
        for key, value in after.items():
            ours, theirs = found[key] - before[key], value - before[key]
            if key.endswith("attn.c_attn.bias"):
                # A softmax does not change when all keys are moved: the gradient of the keys' bias is rounding.
                width = len(ours) // 3
                ours, theirs = (torch.cat([x[:width], x[2 * width:]]) for x in (ours, theirs))
            with self.subTest(parameter=key):
                self.assertGreater(theirs.norm(), 0)
                self.assertLess((ours - theirs).norm() / theirs.norm(), 2e-3)

    def test_five_steps_of_every_model(self):
        for name in MODELS:
            with self.subTest(model=name):
                self.compare(name)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
