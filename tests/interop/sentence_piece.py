"""SentencePiece models, trained and run by the sentencepiece library, and run by Ballot.

    sentence_piece.py INTEROP_TOKENS [FOLDER]    FOLDER: texts (*.txt, *.jsonl) and models (*.model) besides those made here
"""

import io
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

import sentencepiece

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
FOLDER = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
LINES = 20_000
FROM_FOLDER = texts_of_folder(FOLDER, LINES)
MADE = made_texts(max(LINES - len(FROM_FOLDER), LINES // 4))
SPACES = [" ", "   ", " a", "a ", "  a  b  ", "▁", "▁▁a", " ▁ ", "a▁b", "a ▁", "\u3000", "\n ", " \n", "<s>", "</s>a", "<unk>", "<0x41>",
          "<0xE2>\u2581", "word<tool>word", "<tool><tool>", "<tool> ", " <tool>", "two words", "a two words b", "twotwo words"]
TEXTS = FROM_FOLDER + MADE + SPACES


def trained(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in FROM_FOLDER[:6000] + MADE[:3000] if text.strip()]), model_writer=model,
        **{"model_type": "bpe", "vocab_size": 6000, "byte_fallback": True, "normalization_rule_name": "identity",
           "character_coverage": 0.9995, "minloglevel": 2, **options})
    return model.getvalue()


class SentencePieces(unittest.TestCase):
    def run_ballot(self, model, values):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(f"{folder}/tokenizer.model").write_bytes(model)
            with open(f"{folder}/lines", "w") as file:
                file.writelines(json.dumps(value) + "\n" for value in values)
            done = subprocess.run([PROGRAM, folder, f"{folder}/lines", f"{folder}/out"], capture_output=True, text=True)
            if done.returncode != 0:
                return done.stderr
            with open(f"{folder}/out", newline="\n") as file:
                return [json.loads(line) for line in file]

    def compare(self, model, texts=TEXTS):
        library = sentencepiece.SentencePieceProcessor(model_proto=model)
        rng = random.Random(2)
        # Of bytes that are no UTF-8 the library makes U+FFFD, Ballot those bytes.
        known = [id for id in range(library.vocab_size()) if not re.fullmatch("<0x[89A-F].>", library.id_to_piece(id))]
        encoded = [library.encode(text) for text in texts]
        lists = [rng.choices(known, k=rng.randint(0, 30)) for _ in range(5000)] + encoded
        found = self.run_ballot(model, texts + lists)
        self.assertIsInstance(found, list, found)
        self.assertEqual(len(found), len(texts) + len(lists))
        for text, (plain, _), wanted in zip(texts, found, encoded):
            self.assertEqual(plain, wanted, repr(text))
        for ids, characters in zip(lists, found[len(texts):]):
            self.assertEqual(characters.encode("latin-1").decode(errors="replace"), library.decode(ids), ids)

    def test_there_are_enough_lines(self):
        self.assertGreaterEqual(len(TEXTS), LINES)

    def test_as_llama_2(self):
        self.compare(trained(remove_extra_whitespaces=False, split_digits=True))

    def test_extra_spaces_removed(self):
        self.compare(trained(), MADE + SPACES)

    def test_without_a_space_in_front(self):
        self.compare(trained(add_dummy_prefix=False, remove_extra_whitespaces=False), MADE + SPACES)

    def test_pieces_of_several_words(self):
        self.compare(trained(split_by_whitespace=False, remove_extra_whitespaces=False), (MADE + SPACES)[-6000:])

    def test_symbols_of_users(self):
        self.compare(trained(user_defined_symbols=["<tool>", "two words", "a", "  "], remove_extra_whitespaces=False), MADE + SPACES)

    def test_models_of_the_folder(self):
        for path in sorted(FOLDER.rglob("*.model")) if FOLDER else []:
            with self.subTest(path=path.name):
                self.compare(path.read_bytes())

    def test_others_are_refused_by_name(self):
        for options, wanted in (({"model_type": "unigram"}, "unigram"), ({"byte_fallback": False}, "byte_fallback"),
                                ({"normalization_rule_name": "nmt_nfkc"}, "nmt_nfkc"),
                                ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix")):
            with self.subTest(**options):
                said = self.run_ballot(trained(**options), ["a"])
                self.assertIsInstance(said, str)
                self.assertIn(wanted, said)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
