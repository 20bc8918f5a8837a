"""A build with one mistake in it: the commands of a Ninja build, given a changed file.

Only that file is compiled anew, and linked into whatever holds it: the layer's plugin, the test, or both. The PTX of a
kernel file is not linked: the ptx plugin takes it in the place of the old one. So the host's part of a kernel file is
changed in layer simt only.
"""

import functools
import pathlib
import re
import shlex
import subprocess


class DoesNotBuild(Exception):
    pass


class Build:
    def __init__(self, root, folder):
        self.root, self.folder = pathlib.Path(root), pathlib.Path(folder)

    def plugin(self, layer):
        return self.folder / f"cuda_test_plugins/libballot_cuda_{layer}.so"

    def test(self, name):
        return self.folder / "bin" / name

    @functools.cache
    def commands(self, target):
        """What Ninja would run to make the target, without shells and ccache, as lists of words."""
        out = subprocess.run(["ninja", "-C", self.folder, "-t", "commands", target], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
        commands = []
        for line in out.splitlines():
            for part in line.split(" && "):
                words = shlex.split(part)
                if words and words[0].endswith("/ccache"):
                    words = words[1:]
                commands.append(words)
        return commands

    def compilers_of(self, target, source):
        """The commands of the target's build that compile a file."""
        return [c for c in self.commands(target) if following(c, "-c") == str(source)]

    def linker_of(self, target, output):
        return next(c for c in self.commands(target) if following(c, "-o") == output and "-c" not in c)

    def run(self, command, what):
        done = subprocess.run(command, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            errors = [l for l in done.stdout.splitlines() if "error" in l] or done.stdout.splitlines()[-1:]
            raise DoesNotBuild(f"does not {what}: {errors[0] if errors else done.returncode}")


def following(words, flag):
    return words[words.index(flag) + 1] if flag in words[:-1] else None


def without(words, flags, with_value):
    kept, skip = [], False
    for word in words:
        if skip or word in flags or word in with_value:
            skip = not skip and word in with_value
        else:
            kept.append(word)
    return kept


class Mutant:
    """A mistake in `folder`, an empty one. environment(layer) builds it and says how a test finds it."""

    def __init__(self, build, mistake, folder):
        self.build, self.mistake, self.folder = build, mistake, pathlib.Path(folder)
        text = mistake.text_with(build.root)
        self.compiled = mistake.within or mistake.file  # the file that the compiler is given
        self.source = self.folder / ("mutant" + pathlib.Path(self.compiled).suffix)
        self.is_kernel = self.source.suffix == ".cu"
        include = self.folder / "include"  # found before the repository
        if mistake.within:
            header = include / mistake.file
            header.parent.mkdir(parents=True)
            header.write_text(text)
            text = (build.root / mistake.within).read_text()
        self.source.write_text(text)

    def environment(self, layer):
        """(the test's binary, its environment)."""
        test, environment = self.build.test(self.mistake.test), {"BALLOT_CUDA_PLUGIN": str(self.build.plugin(layer))}
        if self.is_kernel and layer == "ptx":
            old = self.build.folder / "ptx" / (self.compiled + ".ptx")
            environment["BALLOT_PTX_INSTEAD"] = f"{old}={self.ptx(old)}"
            return test, environment
        plugin = self.in_plugin(layer)
        relinked = None if self.is_kernel else self.in_test(test)
        if plugin is None and relinked is None:
            raise DoesNotBuild("is in neither the plugin nor the test")
        if plugin is not None:
            environment["BALLOT_CUDA_PLUGIN"] = str(plugin)
        return relinked or test, environment

    def ptx(self, old):
        command = next(c for c in self.build.commands("ballot_cuda_ptx") if following(c, "-o") == str(old))
        command = without(command, {"-MD", str(self.build.root / self.compiled)}, {"-MF", "-o"})
        new = self.folder / "mutant.ptx"
        self.build.run([command[0], f"-I{self.folder / 'include'}", *command[1:], "-o", new, self.source], "compile")
        return new

    def object_by(self, command, name):
        """Optimized little: it is run once."""
        source = self.source
        if self.is_kernel:
            source = self.folder / "wrapper.cpp"
            source.write_text(f'#include "{self.source}"\n')
        out = self.folder / f"{name}.o"
        command = without(command, {"-MD", "-Werror", "-O3", "-O2"}, {"-MT", "-MF", "-o", "-c"})
        self.build.run([command[0], f"-I{self.folder / 'include'}", *command[1:], "-O1", "-o", out, "-c", source],
                       "compile")
        return out

    def in_plugin(self, layer):
        target = f"ballot_cuda_{layer}"
        original = self.build.root / self.compiled
        if self.is_kernel:
            original = self.build.folder / "cuda_wrappers" / (self.compiled + ".cpp")
        found = [c for c in self.build.compilers_of(target, original) if f"/{target}.dir/" in following(c, "-o")]
        if not found:
            return None
        linker = self.build.linker_of(target, f"cuda_test_plugins/libballot_cuda_{layer}.so")
        new, mutant = self.folder / f"{layer}.so", self.object_by(found[0], layer)
        replaced = {following(found[0], "-o"): mutant, following(linker, "-o"): new}
        self.build.run([replaced.get(word, word) for word in linker], "link")
        return new

    def in_test(self, test):
        name = test.name
        linker = self.build.linker_of(name, f"bin/{name}")
        for command in self.build.compilers_of(name, self.build.root / self.compiled):
            library = re.search(r"/(\w+)\.dir/", following(command, "-o")).group(1)
            archives = [w for w in linker if w.endswith(f"/lib{library}.a")]
            if archives:
                # Before the archive, whose own object is then not taken.
                new, mutant = self.folder / name, self.object_by(command, "test")
                words = []
                for word in linker:
                    words += [mutant, word] if word == archives[0] else [word]
                words[words.index("-o") + 1] = new
                self.build.run(words, "link")
                return new
        return None
