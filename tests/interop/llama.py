"""Llamas of every family that Ballot reads, tiny and random: written by transformers, read by Ballot, and back."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
LENGTH = 48

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
}


def config_of(family):
    settings = {**SMALL, **FAMILIES[family]}
    theta, rope = settings.pop("rope_theta"), settings.pop("rope", None)
    if "rope_parameters" in LlamaConfig().to_dict():
        settings["rope_parameters"] = {"rope_type": "default", **(rope or {}), "rope_theta": theta}
    else:
        settings.update(rope_theta=theta, rope_scaling=rope)
    return LlamaConfig(**settings)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


class Llamas(unittest.TestCase):
    def compare(self, family, dtype=torch.float32, older_keys=False, **save):
        torch.manual_seed(len(family))
        model = LlamaForCausalLM(config_of(family)).eval().to(dtype)
        tokens = torch.randint(0, SMALL["vocab_size"], (LENGTH,)).tolist()
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = f"{folder}/ours", f"{folder}/theirs"
            model.save_pretrained(theirs, **save)
            if older_keys:
                self.use_older_keys(f"{theirs}/config.json", family)
            pathlib.Path(f"{folder}/tokens").write_text(" ".join(map(str, tokens)))
            done = subprocess.run([PROGRAM, theirs, f"{folder}/tokens", f"{folder}/logits", ours], capture_output=True,
                                  text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            found = np.fromfile(f"{folder}/logits", np.float32).reshape(LENGTH, -1)
            # Read again: what is not saved (the angles of rotation) is not to be rounded with the weights.
            wanted = logits_of(LlamaForCausalLM.from_pretrained(theirs, dtype=torch.float32).eval(), tokens)
            self.assertLess(np.abs(found - wanted).max(), 1e-3)
            self.assertGreater(wanted.std(), 0.1)  # there is something to compare
            # And what Ballot saves is the same model to transformers, tensor by tensor.
            again = LlamaForCausalLM.from_pretrained(ours, dtype=torch.float32).eval()
            np.testing.assert_array_equal(logits_of(again, tokens), wanted)
            with safe_open(f"{ours}/model.safetensors", "pt") as file:
                self.assertEqual("lm_head.weight" in file.keys(), not model.config.tie_word_embeddings)

    def use_older_keys(self, path, family):
        config = json.loads(pathlib.Path(path).read_text())
        config.pop("rope_parameters", None)
        config["rope_theta"] = FAMILIES[family]["rope_theta"]
        config["rope_scaling"] = FAMILIES[family].get("rope")
        pathlib.Path(path).write_text(json.dumps(config))

    def test_every_family(self):
        for family in FAMILIES:
            for older_keys in (False, True):
                with self.subTest(family=family, older_keys=older_keys):
                    self.compare(family, older_keys=older_keys)

    def test_every_stored_type(self):
        for dtype in (torch.float16, torch.bfloat16):
            with self.subTest(dtype=dtype):
                self.compare("llama-3", dtype)

    def test_a_model_cut_into_many_files(self):
        self.compare("llama-3.1", max_shard_size="40KB")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
