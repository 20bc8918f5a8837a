"""The lists of mistakes: *.mistakes beside this file, entries with an empty line between them.

  name:    what is wrong
  file:    where, from the repository's root
  old:     the text to change, which occurs once; it may go on for several lines
  new:     what stands there instead
  in:      the kernel file that a changed header is compiled in (headers only)
  test:    the binary that must fail
  filter:  the tests of it to run, as GoogleTest's --gtest_filter; all without it
  orders:  between streams (tests/cuda/stand_ins/work_queue.h), one after the other until one shows the mistake; without
           it random:1
  layers:  who must see it: simt, ptx or both; none for what no layer can see
  reason:  why not, with none
"""

import pathlib
from dataclasses import dataclass, field

LAYERS = ("simt", "ptx")


@dataclass
class Mistake:
    name: str
    file: str
    old: str
    test: str
    layers: list
    new: str = ""
    within: str = ""
    filter: str = "*"
    orders: list = field(default_factory=lambda: ["random:1"])
    reason: str = ""

    def text_with(self, root):
        """The file with the mistake in it; ValueError where it does not apply."""
        text = (root / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"the text to change occurs {text.count(self.old)} times: write it anew")
        return text.replace(self.old, self.new)


def read_entry(lines):
    fields, name = {}, None
    keys = ("name", "file", "old", "new", "in", "test", "filter", "orders", "layers", "reason")
    for line in lines:
        key, colon, rest = line.partition(":")
        if colon and key in keys and key not in fields:
            name = key
            fields[name] = rest.removeprefix(" ")
        else:
            fields[name] += "\n" + line
    for several in ("layers", "orders"):
        if several in fields:
            fields[several] = fields[several].split()
    if "in" in fields:
        fields["within"] = fields.pop("in")
    mistake = Mistake(**fields)
    if mistake.layers == ["none"]:
        mistake.layers = []
    unknown = set(mistake.layers) - set(LAYERS)
    if unknown or bool(mistake.layers) == bool(mistake.reason):
        raise ValueError(f"{mistake.name}: layers of {LAYERS}, or none and a reason")
    return mistake


def read_lists(folder):
    mistakes = []
    for path in sorted(pathlib.Path(folder).glob("*.mistakes")):
        entries = "\n".join(l for l in path.read_text().splitlines() if not l.startswith("# ")).split("\n\n")
        mistakes += [read_entry(e.strip("\n").splitlines()) for e in entries if e.strip()]
    names = [m.name for m in mistakes]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two mistakes are called {name}")
    return mistakes
