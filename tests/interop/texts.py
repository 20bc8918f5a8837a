"""Lines of a folder, and lines made of what cutters of words get wrong: what tokenizers are compared on."""

import random
import unicodedata

ADDED = ["<|begin|>", "<|end|>", "<|end|>!", " <|wide|> ", "été", "word", "a", "<|left|>", "<|right|>", "<|both|>",
         "\u00a0", "Hello World", "ſ"]


def texts_of_folder(folder, most):
    if folder is None:
        return []
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl"))
    lines = [line for path in paths for line in path.read_text().splitlines(keepends=True)]
    return random.Random(0).sample(lines, min(len(lines), most))


def made_texts(count):
    """Lines of words, and of what cutters of words get wrong."""
    rng = random.Random(1)
    everything = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    by_kind = {}
    for character in everything:
        by_kind.setdefault(unicodedata.category(character), []).append(character)
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(1, 9))) for _ in range(400)]
    others = "été naïve straße Straſse ΟΔΥΣΣΕΥΣ İstanbul ﬁnal ǆ Übermaß Ελληνικά русский עברית العربية हिन्दी ไทย 한국어 中文 日本語 עַל".split()
    joined = ["👩‍👩‍👧‍👦", "👍🏽", "🏳️‍🌈", "🇪🇺🇫", "e\u0301\u0323", "\u0301", "a\u200db", "\u200e\u200f", "\u202eabc\u202c", "1️⃣"]
    edges = ["\x00", "\x7f", "\x80", "\x85", "\u00a0", "\u07ff", "\u0800", "\u180e", "\u2028", "\u2029", "\u200b", "\u3000",
             "\ud7ff", "\ue000", "\ufeff", "\ufffd", "\uffff", "\U00010000", "\U0010ffff", "\u2581", "Ġ", "Ċ", "<0x41>", "<0xE2>"]
    digits = ["0", "7", "12", "123", "1234567", "3.14", "٠١٢٣", "१२३४", "๑๒", "Ⅷ", "½", "①", "𝟘𝟙", "一二"]
    contractions = ["'s", "'S", "'ſ", "'t", "'re", "'VE", "'m", "'LL", "'d", "'", "''s", "’s"]
    spaces = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r\n\r\n", "\r", " \n ", "\u00a0", "\u2003", "\v", "\f", " " * 33, "\n" * 7]
    signs = list("!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "«»", "—", "€", "∑", "=>", "/*", "*/\n"]

    def piece():
        kind = rng.randrange(12)
        if kind == 11:
            return rng.choice(by_kind[rng.choice(list(by_kind))])
        if kind == 10:
            return rng.choice(everything)
        return rng.choice((words, words, others, joined, edges, digits, contractions, spaces, signs, ADDED)[kind])

    lines = ["", " ", "\n", "\x00", " " * 4000, " " * 4000 + "x", "a" * 5000, "\r\n" * 700, "👍🏽" * 300, "٣" * 500]
    lines += ["".join(piece() + rng.choice(("", "", " ", " ", "  ")) for _ in range(rng.randint(1, 24))) for _ in range(count)]
    lines += ["".join(everything[i:i + 500]) for i in range(0, len(everything), 500)]
    return lines
