"""What the tests of model families share: a tiny random model, written by transformers, read by Ballot, and back."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# tokenizers.py beside this file is not the package that transformers imports.
sys.path[:] = [path for path in sys.path if pathlib.Path(path or ".").resolve() != pathlib.Path(__file__).resolve().parent]
import numpy as np
import torch
from safetensors import safe_open

LENGTH = 48


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


def stored_names(folder):
    names = set()
    for path in pathlib.Path(folder).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


class ModelTest(unittest.TestCase):
    """`logits` is interop_logits, `ballot` the command; `model_class` what transformers reads folders as."""

    logits = ballot = model_class = None

    def run_program(self, *words):
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def load(self, folder, dtype=torch.float32):
        return self.model_class.from_pretrained(folder, dtype=dtype).eval()

    def compare(self, model, change_folder=None, dtype=torch.float32, **save):
        """`change_folder`: what is done to the folder that transformers wrote."""
        model = model.eval().to(dtype)
        vocabulary = model.config.vocab_size
        tokens = torch.randint(0, vocabulary, (LENGTH,)).tolist()
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = f"{folder}/ours", f"{folder}/theirs"
            model.save_pretrained(theirs, **save)
            if change_folder:
                change_folder(pathlib.Path(theirs))
            pathlib.Path(f"{folder}/tokens").write_text(" ".join(map(str, tokens)))
            self.run_program(self.logits, theirs, f"{folder}/tokens", f"{folder}/logits", ours)
            found = np.fromfile(f"{folder}/logits", np.float32).reshape(LENGTH, -1)
            # Read again: what is not saved (the angles of rotation) is not to be rounded with the weights.
            wanted = logits_of(self.load(theirs), tokens)
            self.assertLess(np.abs(found - wanted).max(), 1e-3)
            self.assertGreater(wanted.std(), 0.1)  # there is something to compare
            # And what Ballot saves is the same model to transformers, tensor by tensor.
            self.check_folder(ours, wanted, tokens, model)
            self.check_export(theirs, wanted, tokens, model, f"{folder}/exported")

    def check_folder(self, folder, wanted, tokens, model, dtype=torch.float32):
        np.testing.assert_array_equal(logits_of(self.load(folder), tokens), wanted)
        config = json.loads(pathlib.Path(f"{folder}/config.json").read_text())
        said = config.get("dtype", config.get("torch_dtype"))
        self.assertEqual(said, str(dtype).removeprefix("torch."))
        self.assertEqual("lm_head.weight" in stored_names(folder), not model.config.tie_word_embeddings)

    def check_export(self, theirs, wanted, tokens, model, folder):
        size = sum(p.numel() for p in model.parameters())
        for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            target = f"{folder}-{name}"
            self.run_program(self.ballot, "export", theirs, target, "--type", name, "--max-shard-size", f"{size}B")
            self.assertGreater(len(list(pathlib.Path(target).glob("model-*-of-*.safetensors"))), 1)
            # transformers' own rounding of the same weights; rounding to itself is exact.
            rounded = self.load(theirs).to(dtype).float()
            self.check_folder(target, self.as_saved(rounded, tokens), tokens, model, dtype)
            # With no type asked for, transformers takes what config.json says.
            plain = self.model_class.from_pretrained(target, dtype="auto")
            self.assertEqual(next(plain.parameters()).dtype, dtype)

    def as_saved(self, model, tokens):
        """The logits of the model after a round through a folder, as check_folder() reads it."""
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            return logits_of(self.load(folder), tokens)
