"""Conversations through the chat templates of every family: transformers' tokens, and what it says the assistant said, against
Ballot's.

    chat.py INTEROP_CHAT

The templates are written here anew; that published ones are recognized is the unit tests' matter.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
from texts import made_texts

sys.path = [path for path in sys.path if pathlib.Path(path or ".").resolve() != pathlib.Path(__file__).resolve().parent]
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
MADE = made_texts(4000)

HEADERS = ("{%- for m in turns %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
           "{%- if m.role == 'assistant' %}{% generation %}{{- m.content | trim + '<|eot_id|>' }}{% endgeneration %}"
           "{%- else %}{{- m.content | trim + '<|eot_id|>' }}{%- endif %}{%- endfor %}"
           "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}")
CHATML = ("{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
          "{%- if m.role == 'assistant' %}{% generation %}{{- m.content + '<|im_end|>' }}{% endgeneration %}"
          "{%- else %}{{- m.content + '<|im_end|>' }}{%- endif %}{{- '\n' }}{%- endfor %}"
          "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}")
TEMPLATES = {
    "llama2": "{%- set system = messages[0].role == 'system' %}{%- for m in (messages[1:] if system else messages) %}"
              "{%- if m.role == 'user' %}{%- set opening = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' if system and loop.first else '' %}"
              "{{- bos_token + '[INST] ' + (opening + m.content) | trim + ' [/INST]' }}"
              "{%- else %}{% generation %}{{- ' ' + m.content | trim + ' ' + eos_token }}{% endgeneration %}{%- endif %}{%- endfor %}",
    "llama3": "{%- set turns = messages %}{{- bos_token }}" + HEADERS,
    "llama3.1": "{%- set system = messages[0].role == 'system' %}{%- set turns = messages[1:] if system else messages %}"
                "{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}"
                "{{- 'Today Date: 26 Jul 2024\n\n' + (messages[0].content | trim if system else '') + '<|eot_id|>' }}" + HEADERS,
    "chatml": CHATML,
    "smollm2": "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
               "trained by Hugging Face<|im_end|>\n' }}{%- endif %}" + CHATML,
    "zephyr": "{%- for m in messages %}{{- '<|' + m.role + '|>\n' }}{%- if m.role == 'assistant' %}{% generation %}"
              "{{- m.content + eos_token }}{% endgeneration %}{%- else %}{{- m.content + eos_token }}{%- endif %}{{- '\n' }}{%- endfor %}"
              "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}",
}


def conversations(count):
    """Questions and answers in turns, some after a system message; texts with spaces and breaks at either end."""
    rng = random.Random(3)
    special = ("<|", "<s>", "</s>")  # a special token's text in a content: transformers reads it as that token

    def text():
        parts = [rng.choice(MADE)[:60] for _ in range(rng.randint(0, 4))]
        said = rng.choice(("", "", " ", "\n")) + " ".join(parts) + rng.choice(("", "", " ", "\n\n"))
        return "" if any(mark in said for mark in special) else said

    for _ in range(count):
        turns = [{"role": role, "content": text()} for _ in range(rng.randint(1, 4)) for role in ("user", "assistant")]
        yield ([{"role": "system", "content": text()}] if rng.random() < 0.5 else []) + turns


def trained(byte_level, specials):
    tokenizer = Tokenizer(models.BPE(byte_fallback=not byte_level, fuse_unk=not byte_level, unk_token=None if byte_level else "<unk>"))
    spelled = [] if byte_level else ["<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.train_from_iterator((text for text in MADE if "<0x" not in text), trainers.BpeTrainer(
        vocab_size=2500, show_progress=False, special_tokens=spelled, limit_alphabet=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else []))
    root = json.loads(tokenizer.to_str())
    if not byte_level:
        root["pre_tokenizer"] = None
    root["added_tokens"] = [token for token in root["added_tokens"] if token["content"] not in spelled[1:]]
    tokenizer = Tokenizer.from_str(json.dumps(root))
    tokenizer.add_special_tokens(specials)
    return tokenizer


class Chats(unittest.TestCase):
    def compare(self, name, tokenizer, bos, eos):
        library = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, chat_template=TEMPLATES[name])
        chats = list(conversations(400))
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(f"{folder}/tokenizer.json").write_text(tokenizer.to_str())
            pathlib.Path(f"{folder}/tokenizer_config.json").write_text(json.dumps({"bos_token": bos, "eos_token": eos}))
            with open(f"{folder}/lines", "w") as file:
                file.writelines(json.dumps(chat) + "\n" for chat in chats)
            done = subprocess.run([PROGRAM, folder, name, f"{folder}/lines", f"{folder}/out"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(f"{folder}/out", newline="\n") as file:
                found = [json.loads(line) for line in file]
        self.assertEqual(len(found), len(chats))
        said = 0
        for chat, (tokens, trained_on, prompt) in zip(chats, found):
            wanted = library.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            self.assertEqual(tokens, list(wanted["input_ids"]), chat)
            # Where a token holds the end of the template's words and the beginning of the assistant's, both may be right.
            if all(not turn["content"][:1].isspace() and turn["content"] for turn in chat if turn["role"] == "assistant"):
                self.assertEqual([int(flag) for flag in trained_on], list(wanted["assistant_masks"]), chat)
                said += sum(trained_on)
            self.assertEqual(prompt, library.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=True)["input_ids"])
        self.assertGreater(said, 1000)

    def test_byte_level(self):
        tokenizer = trained(True, ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
                                   "<|im_start|>", "<|im_end|>"])
        for name in TEMPLATES:
            with self.subTest(template=name):
                self.compare(name, tokenizer, "<|begin_of_text|>", "<|end_of_text|>")

    def test_with_byte_fallback(self):
        tokenizer = trained(False, ["<s>", "</s>"])
        for name in ("llama2", "zephyr"):
            with self.subTest(template=name):
                self.compare(name, tokenizer, "<s>", "</s>")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
