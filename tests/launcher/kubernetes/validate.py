"""The golden files and examples, which are what `ballot launch --on kubernetes` renders (other tests see to that), against
Kubernetes' schemas, strictly; and planted mistakes that have to be seen.

tests/support/python FOLDER tests/launcher/kubernetes/requirements.txt tests/launcher/kubernetes/validate.py"""

import copy
import json
import pathlib
import sys

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLES = HERE.parents[2] / "deploy/examples/kubernetes"
# 1.29 is the oldest that has all fields of the Job switched on.
VERSIONS = ["1.29", "1.31", "1.33", "1.35", "1.37"]


def documents(file):
    return [one for one in yaml.safe_load_all(file.read_text()) if one is not None]


def as_plain_objects(objects):
    """No schema of an MPIJob is in the package: its pods are looked at as those of Jobs."""
    plain = []
    for one in objects:
        if one["kind"] != "MPIJob":
            plain.append(one)
            continue
        for role, replica in one["spec"]["mpiReplicaSpecs"].items():
            template = copy.deepcopy(replica["template"])
            template["spec"]["restartPolicy"] = replica["restartPolicy"]
            plain.append({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": role.lower()},
                          "spec": {"template": template}})
    return plain


def problem(one, version):
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return None


def planted(objects):
    """(what, object with one mistake) for mistakes that people make."""

    def mistake(kind, change):
        one = copy.deepcopy(next(o for o in objects if o["kind"] == kind))
        change(one)
        return one

    def pod(one):
        return one["spec"]["template"]["spec"]

    def container(one):
        return pod(one)["containers"][0]

    yield "a misspelt key", mistake("Job", lambda o: o["spec"].update(completion=4))
    yield "a string for a number", mistake("Job", lambda o: o["spec"].update(completions="4"))
    yield "a number for a string", mistake("ConfigMap", lambda o: o["data"].update({"run.toml": 1}))
    yield "a truth value as a label", mistake("Job", lambda o: o["metadata"]["labels"].update(a=True))
    yield "a number as an argument", mistake("Job", lambda o: container(o)["args"].append(4))
    yield "a variable that is no text", mistake("Job", lambda o: container(o)["env"][2].update(value=4))
    yield "a container without a name", mistake("StatefulSet", lambda o: container(o).pop("name"))
    yield "a rule without an action", mistake(
        "Job", lambda o: o["spec"]["podFailurePolicy"]["rules"][0].pop("action"))
    yield "a field at the wrong place", mistake("Job", lambda o: o["spec"].update(restartPolicy="Never"))
    yield "a probe's port as text in grpc", mistake(
        "StatefulSet", lambda o: container(o)["livenessProbe"]["grpc"].update(port="grpc"))
    yield "no selector", mistake("StatefulSet", lambda o: o["spec"].pop("selector"))


def main():
    texts = yaml.safe_load((HERE / "strings.yaml").read_text())
    if texts != json.loads((HERE / "strings.json").read_text()):
        sys.exit("PyYAML reads strings.yaml as other strings than strings.json has")

    wrong, seen = [], 0
    files = sorted(f for f in [*HERE.glob("*.yaml"), *EXAMPLES.glob("*.yaml")] if f.name != "strings.yaml")
    for file in files:
        for one in as_plain_objects(documents(file)):
            for version in VERSIONS:
                seen += 1
                if text := problem(one, version):
                    wrong.append(f"{file.name}: {one['kind']} by the schemas of {version}: {text}")
    mistakes = 0
    for what, one in planted(documents(HERE / "plain.yaml")):
        for version in VERSIONS:
            mistakes += 1
            if problem(one, version) is None:
                wrong.append(f"a planted mistake is not seen by the schemas of {version}: {what}")
    if seen < 30 * len(VERSIONS) or mistakes < 10 * len(VERSIONS):
        wrong.append(f"only {seen} objects and {mistakes} mistakes were looked at")
    print(f"{len(files)} files, {seen} validations, {mistakes} planted mistakes, {len(wrong)} problems")
    sys.exit("\n".join(wrong) or 0)


main()
