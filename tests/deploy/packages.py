"""deploy/packages-runtime against what the program is linked with: no library without its package, no package of the
list that nothing needs. packages.py REPOSITORY PROGRAM."""

import pathlib
import re
import subprocess
import sys


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def package_of(library):
    """The package that a file belongs to, or None. /usr/lib and /lib are one folder, and dpkg knows the older name."""
    real = pathlib.Path(library).resolve()
    for path in dict.fromkeys([str(real), str(real).removeprefix("/usr"), library]):
        found = subprocess.run(["dpkg-query", "-S", path], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.split(":")[0]
    return None


def closure(names):
    """These packages and all that they depend on, as installed."""
    depends, provides = {}, {}
    for line in run("dpkg-query", "-W", "-f", "${Package}\t${Depends},${Pre-Depends}\t${Provides}\n").splitlines():
        name, needs, gives = line.split("\t")
        words = [re.split(r"[ (:]", part.strip())[0] for part in re.split(r"[,|]", needs)]
        depends.setdefault(name, []).extend(word for word in words if word)
        for gift in gives.split(","):
            provides.setdefault(re.split(r"[ (:]", gift.strip())[0], []).append(name)
    seen, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += depends.get(name, []) + provides.get(name, [])
    return seen


def main():
    root, program = pathlib.Path(sys.argv[1]), sys.argv[2]
    listed = [line.partition("#")[0].strip() for line in (root / "deploy/packages-runtime").read_text().splitlines()]
    listed = [name for name in listed if name]
    # Path of each library, all and those that the program names itself.
    places = dict(re.findall(r"^\s*(\S+) => (/\S+)", run("ldd", program), re.M))
    direct = re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", program))
    if len(direct) < 10 or len(places) < len(direct):
        sys.exit(f"{program} needs {len(direct)} libraries, {len(places)} with what they need: is this the program?")
    packages = {name: package_of(path) for name, path in places.items()}

    def problems(listed):
        covered = closure(listed)
        found = []
        for name, package in sorted(packages.items()):
            if package is None:
                found.append(f"{name} ({places[name]}) belongs to no package")
            elif package not in covered:
                found.append(f"{name} is of the package {package}, which is not in packages-runtime, nor needed by it")
        used = {packages.get(name) for name in direct}
        found += [f"packages-runtime: {name}: the program names no library of it"
                  for name in listed if name.startswith("lib") and name not in used]
        return found

    found = problems(listed)
    libraries = [name for name in listed if name.startswith("lib")]
    for left_out in ("libyaml-cpp0.7", "libdnnl2", "libgrpc++1.51"):
        if left_out in listed and not problems([name for name in listed if name != left_out]):
            found.append(f"without {left_out} nothing is found to be wrong")
    if not problems(listed + ["libtinfo6"]):
        found.append("a package too many is not found")
    print(f"{len(places)} libraries, {len(direct)} named by the program, {len(libraries)} packages, {len(found)} problems")
    sys.exit("\n".join(found) or 0)


main()
