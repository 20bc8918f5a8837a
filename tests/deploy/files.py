"""The container's recipe, read: its stages follow from each other, and what it copies and installs is there.

files.py REPOSITORY. Mistakes are planted too, and have to be found."""

import pathlib
import re
import sys


def instructions(text):
    """(word, rest) of each instruction; continued lines are joined, comments left out."""
    lines, whole = [], ""
    for line in text.splitlines():
        if not whole and (not line.strip() or line.lstrip().startswith("#")):
            continue
        whole += line.rstrip("\\").rstrip() + " " if line.endswith("\\") else line
        if not line.endswith("\\"):
            word, _, rest = whole.strip().partition(" ")
            lines.append((word, rest.strip()))
            whole = ""
    return lines


def problems_of(text, root):
    found, stages, arguments, parents = [], {}, {}, {}
    stage, user, copied = None, {}, {}
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT", "CMD", "USER"}
    for word, rest in instructions(text):
        if word not in known:
            found.append(f"unknown instruction {word}")
        elif word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word == "FROM":
            match = re.fullmatch(r"(\S+) AS ([a-z][a-z0-9-]*)", rest)
            if not match:
                found.append(f"FROM {rest}: expected FROM image AS stage")
                continue
            base, stage = match.groups()
            for name in re.findall(r"\$\{(\w+)\}", base):
                if name not in arguments:
                    found.append(f"{stage}: ${{{name}}} is no ARG")
                base = base.replace(f"${{{name}}}", arguments.get(name, ""))
            if not base:
                found.append(f"{stage}: starts from nothing")
            if stage in stages:
                found.append(f"the stage {stage} is there twice")
            parents[stage] = base if base in stages else None
            stages[stage] = []
            user[stage] = user.get(base, "0:0")
            copied[stage] = set(copied.get(base, set()))
        elif stage is None:
            found.append(f"{word} before the first stage")
        elif word == "USER":
            user[stage] = rest
        elif word == "COPY":
            words = rest.split()
            source = next((w.partition("=")[2] for w in words if w.startswith("--from=")), None)
            paths = [w for w in words if not w.startswith("--")]
            if source is not None and source not in stages:
                found.append(f"{stage}: COPY --from={source}, which is no earlier stage")
            if source is None:
                for path in paths[:-1]:
                    copied[stage].add(path)
                    if not (root / path).exists():
                        found.append(f"{stage}: COPY {path}, which is not in the repository")
        elif word == "RUN":
            for name in re.findall(r"install-packages \S*?(deploy/\S+)", rest):
                if name not in copied[stage]:
                    found.append(f"{stage}: installs {name}, which it has not copied")
        if stage is not None:
            stages[stage].append((word, rest))

    def chain(name):
        while name:
            yield from stages[name]
            name = parents[name]

    for target in ("cpu", "cuda", "mpi"):
        if target not in stages:
            found.append(f"there is no target {target}")
            continue
        if user[target] != "1000:1000":
            found.append(f"{target} runs as {user[target]}; expected 1000:1000")
        # USER ends in a number: a pod's runAsNonRoot cannot judge a name.
        if not any(word == "ENTRYPOINT" and '"/usr/local/bin/ballot"]' in rest for word, rest in chain(target)):
            found.append(f"{target} does not start ballot")
        if any(word == "RUN" and "cmake" in rest for word, rest in chain(target)):
            found.append(f"{target} carries the tools that it was built with")
    return found


def main():
    root = pathlib.Path(sys.argv[1])
    text = (root / "deploy/Dockerfile").read_text()
    found = problems_of(text, root)
    planted = [
        ("COPY deploy/mpi/ssh_config", "COPY deploy/mpi/ssh-config", "not in the repository"),
        ("--from=build-cpu", "--from=build-gpu", "no earlier stage"),
        ("FROM runtime AS cuda", "FROM runtime AS gpu", "no target cuda"),
        ("ARG VARIANT=cpu", "ARG KIND=cpu", "is no ARG"),
        ("USER 1000:1000\n\nFROM runtime AS cuda", "\nFROM runtime AS cuda", "cpu runs as 0:0"),
        ("FROM runtime AS cpu", "FROM build-cpu AS cpu", "carries the tools"),
        ("COPY deploy/install-packages deploy/packages deploy/", "COPY deploy/install-packages deploy/", "has not copied"),
        ("ENTRYPOINT", "ENTRYPOINTS", "unknown instruction"),
    ]
    for before, after, expected in planted:
        if before not in text:
            found.append(f"a mistake cannot be planted: {before}")
        elif not any(expected in one for one in problems_of(text.replace(before, after), root)):
            found.append(f"a planted mistake is not found: {after}")
    for file in root.glob("deploy/packages*"):
        for line in file.read_text().splitlines():
            name = line.partition("#")[0].strip()
            if name and not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name):
                found.append(f"{file.name}: {name} is no name of a package")
    print(f"{len(instructions(text))} instructions, {len(planted)} planted mistakes, {len(found)} problems")
    sys.exit("\n".join(found) or 0)


main()
