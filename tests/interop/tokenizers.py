"""Tokenizers of every family that Ballot reads, trained and run by the tokenizers library, and run by Ballot.

    tokenizers.py INTEROP_TOKENS [FOLDER]    FOLDER: texts (*.txt, *.jsonl) besides those made here
"""

import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
from texts import made_texts, texts_of_folder

# This file's name is the library's too: it is not to be found here.
sys.path = [path for path in sys.path if pathlib.Path(path or ".").resolve() != pathlib.Path(__file__).resolve().parent]
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
FOLDER = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
LINES = 20_000

LLAMA_3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")


FROM_FOLDER = texts_of_folder(FOLDER, LINES)
MADE = made_texts(max(LINES - len(FROM_FOLDER), LINES // 4))
TEXTS = FROM_FOLDER + MADE


def trained(pre_tokenizer, normalizer=None, specials=(), size=2500, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    byte_level = not model.get("byte_fallback")
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else [], limit_alphabet=600)
    # Not "<0x41>": merges would make the token of a byte from its name.
    tokenizer.train_from_iterator((text for text in FROM_FOLDER[:6000] + MADE[:3000] if "<0x" not in text), trainer)
    return tokenizer


def template(bos, tokenizer, eos=""):
    return processors.TemplateProcessing(
        single=f"{bos} $A {eos}".strip(), pair=f"{bos} $A $B",
        special_tokens=[(text, tokenizer.token_to_id(text)) for text in (bos, eos) if text])


def gpt_2(**options):
    tokenizer = trained(pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options}), specials=["<|endoftext|>"])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def split_then_bytes(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(pattern, behavior=behavior, invert=invert),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama_3():
    tokenizer = trained(split_then_bytes(Regex(LLAMA_3)), ignore_merges=True)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"] + [f"<|reserved_{i}|>" for i in range(20)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template("<|begin_of_text|>", tokenizer)])
    return tokenizer


def smollm2():
    tokenizer = trained(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                 pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def llama_2():
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = trained(pre_tokenizers.Metaspace(prepend_scheme="never"),
                        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
                        ["<unk>", "<s>", "</s>"] + spelled, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    root = json.loads(tokenizer.to_str())
    root["pre_tokenizer"] = None
    root["added_tokens"] = [token for token in root["added_tokens"] if token["content"] not in spelled]
    tokenizer = Tokenizer.from_str(json.dumps(root))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = template("<s>", tokenizer, "</s>")
    return tokenizer


def with_added(tokenizer):
    """Added tokens of every sort, put where they hurt."""
    tokenizer.add_special_tokens([AddedToken("<|begin|>", normalized=False, special=True), AddedToken("<|end|>", special=True),
                                  AddedToken("<|both|>", lstrip=True, rstrip=True, special=True, normalized=False)])
    tokenizer.add_tokens([
        AddedToken("<|end|>!", normalized=False), AddedToken(" <|wide|> ", normalized=True),
        AddedToken("word", single_word=True, normalized=False), AddedToken("a", single_word=True, normalized=True),
        AddedToken("<|left|>", lstrip=True, normalized=False), AddedToken("<|right|>", rstrip=True, normalized=True),
        AddedToken("\u00a0", normalized=False), AddedToken("Hello World", normalized=True), AddedToken("été", normalized=False)])
    return tokenizer


class Tokenizers(unittest.TestCase):
    def compare(self, tokenizer, texts=TEXTS, merges_as_text=False):
        root = json.loads(tokenizer.to_str())
        if merges_as_text:
            root["model"]["merges"] = [" ".join(pair) for pair in root["model"]["merges"]]
        rng = random.Random(2)
        byte_fallback = root["model"]["byte_fallback"]
        # Of bytes that are no UTF-8 tokenizers makes U+FFFD: for byte fallback, not one for each piece.
        known = sorted(id for text, id in tokenizer.get_vocab().items()
                       if not (byte_fallback and re.fullmatch("<0x[89A-F].>", text)))
        encoded = [tokenizer.encode(text, add_special_tokens=True).ids for text in texts]
        lists = [rng.choices(known, k=rng.randint(0, 30)) for _ in range(5000)] + encoded
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(f"{folder}/tokenizer.json").write_text(json.dumps(root))
            with open(f"{folder}/lines", "w") as file:
                file.writelines(json.dumps(value) + "\n" for value in texts + lists)
            done = subprocess.run([PROGRAM, folder, f"{folder}/lines", f"{folder}/out"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(f"{folder}/out", newline="\n") as file:
                found = [json.loads(line) for line in file]
        self.assertEqual(len(found), len(texts) + len(lists))
        tokenizer.encode_special_tokens = True
        for text, (plain, whole), wanted in zip(texts, found, encoded):
            self.assertEqual(whole, wanted, repr(text))
            self.assertEqual(plain, tokenizer.encode(text, add_special_tokens=False).ids, repr(text))
        for ids, characters in zip(lists, found[len(texts):]):
            self.assertEqual(characters.encode("latin-1").decode(errors="replace"), tokenizer.decode(ids), ids)

    def test_there_are_enough_lines(self):
        self.assertGreaterEqual(len(TEXTS), LINES)

    def test_gpt_2(self):
        self.compare(gpt_2(), merges_as_text=True)

    def test_llama_3(self):
        self.compare(llama_3())

    def test_smollm2(self):
        self.compare(smollm2())

    def test_llama_2(self):
        self.compare(llama_2())

    def test_llama_2_with_metaspace(self):
        for scheme in ("first", "always", "never"):
            for split in (False, True):
                with self.subTest(scheme=scheme, split=split):
                    root = json.loads(LLAMA_2.to_str())
                    root["normalizer"] = None
                    root["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
                    self.compare(with_added(Tokenizer.from_str(json.dumps(root))), MADE[:4000])
                    self.compare(Tokenizer.from_str(json.dumps(root)), MADE[:4000])

    def test_added_tokens(self):
        for family in (gpt_2, llama_3, smollm2, llama_2):
            with self.subTest(family=family.__name__):
                self.compare(with_added(family()), MADE)

    def test_a_space_before_every_piece(self):
        self.compare(with_added(gpt_2(add_prefix_space=True)), MADE)

    def test_every_behavior_of_split(self):
        for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
            for invert in (False, True):
                for pattern in (Regex(r"\s+|\d"), Regex("x*"), Regex(r"(?i)[^\S\n]e?|^\p{Lu}|(?<=l)\P{L}$"), " ", "."):
                    with self.subTest(behavior=behavior, invert=invert, pattern=str(pattern)):
                        tokenizer = Tokenizer.from_str(SMALL.to_str())
                        tokenizer.pre_tokenizer = split_then_bytes(pattern, behavior, invert)
                        self.compare(tokenizer, MADE[:1000])

    def test_runs_of_digits(self):
        tokenizer = Tokenizer.from_str(SMALL.to_str())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
        self.compare(tokenizer, MADE)


SMALL = gpt_2()
LLAMA_2 = llama_2()

if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
