"""What `ballot launch --on kubernetes` renders, played: each container a process with its own process numbers, started with
the words, variables and folder that its object says; the Job's rules and hooks by a few lines. No cluster: what a server,
a scheduler or a kubelet would add or refuse is not seen here.

pods.py BALLOT FOLDER    FOLDER: where the volume is made, not below /tmp"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
INSIDE = "BALLOT_TEST_INSIDE"  # the network namespace


def fail(text):
    sys.exit(f"pods: {text}")


def until(what, holds, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            fail(f"waited {seconds} s for {what}")
        time.sleep(0.05)


def entrypoint():
    text = (ROOT / "deploy/Dockerfile").read_text()
    return json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.M).group(1))


class Pod:
    """A container of a rendered template; `given` are the variables that the cluster adds."""

    def __init__(self, cluster, name, template, given):
        spec = template["spec"]
        container = spec["containers"][0]
        self.grace = spec["terminationGracePeriodSeconds"]
        self.hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        variables = dict(given)
        for one in container["env"]:
            source = one.get("valueFrom", {})
            if "secretKeyRef" in source:
                variables[one["name"]] = cluster.secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
            elif "fieldRef" not in source:
                variables[one["name"]] = one["value"]

        def expanded(word):
            word = re.sub(r"\$(\$|\((\w+)\))", lambda m: "$" if m[1] == "$" else variables.get(m[2], m[0]), word)
            for name, place in cluster.places.items():  # what a name server and a mount would do
                word = word.replace(name, place)
            return word

        words = container["command"] if "command" in container else entrypoint()
        words = [expanded(word) for word in [*words, *container.get("args", [])]]
        # Folders of its own, as the object says: Open MPI's segments of two pods would have one name. /tmp may hold what
        # is tested, and is another folder by its variable.
        empty = {one["name"] for one in spec["volumes"] if "emptyDir" in one}
        own = [one["mountPath"] for one in container["volumeMounts"] if one["name"] in empty]
        mounts = "".join(f"mount -t tmpfs none {place} && " for place in own if place != "/tmp")
        if "/tmp" in own:
            variables["TMPDIR"] = tempfile.mkdtemp(dir=cluster.folder)
        path = f"{cluster.ballot.parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **variables}
        self.log = open(cluster.folder / f"{name}.log", "ab")
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "/bin/sh", "-c",
             mounts + 'exec "$@"', "sh", *words], cwd=container["workingDir"],
            env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def descendants(self, of=None):
        of = of or self.process.pid
        try:
            children = pathlib.Path(f"/proc/{of}/task/{of}/children").read_text().split()
        except OSError:
            return []
        return [one for child in map(int, children) for one in [child, *self.descendants(child)]]

    def kill(self):
        """As the kernel would, out of memory: its deepest process."""
        os.kill(self.descendants()[-1], signal.SIGKILL)
        self.process.wait(60)

    def terminate(self):
        """As a node that is drained: the hook, then SIGTERM, then SIGKILL."""
        first = self.descendants()[0]
        end = time.monotonic() + min(self.grace, 60)
        if self.hook:
            hook = subprocess.Popen(["nsenter", "--target", str(first), "--pid", "--mount", *self.hook])
            while self.process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            hook.kill()
            hook.wait()
        if self.process.poll() is None:
            os.kill(first, signal.SIGTERM)
        try:
            return self.process.wait(max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            fail("a pod did not leave when it was asked")


class Cluster:
    """Plays one job. Stops at its end; `disturb(cluster)` is called all the while."""

    def __init__(self, ballot, folder, volume, flags):
        self.ballot, self.folder, self.volume = ballot, folder, volume
        folder.mkdir()
        text = subprocess.run(
            [ballot, "launch", "run.toml", "--on", "kubernetes", "--dry-run", "--kube-image", "ballot", "--kube-claim", "c",
             "--kube-mount", volume, *flags], cwd=volume, check=True, capture_output=True, text=True).stdout
        (folder / "objects.yaml").write_text(text)
        self.objects = {one["kind"]: one for one in yaml.safe_load_all(text)}
        job = self.objects["Job"]
        self.name, self.spec = job["metadata"]["name"], job["spec"]
        self.secrets = {self.objects["Secret"]["metadata"]["name"]: {"BALLOT_TOKEN": "of this test"}}
        run_file = folder / "run.toml"
        run_file.write_text(self.objects["ConfigMap"]["data"]["run.toml"])
        coordinator = self.objects["StatefulSet"]
        self.places = {f"{coordinator['metadata']['name']}:": "127.0.1.1:", "/ballot/run/run.toml": str(run_file),
                       "/usr/local/bin/ballot": str(ballot)}
        self.coordinator_template = coordinator["spec"]["template"]
        self.workers, self.failures, self.ended, self.actions = {}, {}, {}, []
        self.pods_made = 0

    def start_coordinator(self):
        self.coordinator = Pod(self, "coordinator", self.coordinator_template, {})

    def start_worker(self, index):
        self.pods_made += 1
        given = {"JOB_COMPLETION_INDEX": str(index), "POD_IP": f"127.0.2.{self.pods_made}"}
        self.workers[index] = Pod(self, f"worker-{index}", self.spec["template"], given)

    def action(self, code, disrupted):
        for rule in self.spec["podFailurePolicy"]["rules"]:
            if "onPodConditions" in rule:
                if disrupted:
                    return rule["action"]
                continue
            on = rule["onExitCodes"]
            if (code in on["values"]) == (on["operator"] == "In"):
                return rule["action"]
        return "Count"

    def over(self, index, code, disrupted=False):
        """A worker's pod has ended. Whether the job has failed with it."""
        del self.workers[index]
        self.actions.append((index, code, "Done" if code == 0 else self.action(code, disrupted)))
        action = self.actions[-1][2]
        if action == "Done":
            self.ended[index] = 0
        elif action == "FailJob":
            return True
        elif action == "FailIndex":
            self.ended[index] = code
        else:
            self.failures[index] = self.failures.get(index, 0) + (action == "Count")
            if self.failures[index] > self.spec["backoffLimitPerIndex"]:
                self.ended[index] = code
            else:
                self.start_worker(index)
        return sum(code != 0 for code in self.ended.values()) > self.spec["maxFailedIndexes"]

    def run(self, disturb=lambda cluster: None, seconds=150):
        self.start_coordinator()
        for index in range(self.spec["parallelism"]):
            self.start_worker(index)
        end, failed = time.monotonic() + seconds, False
        try:
            while self.workers and not failed:
                if time.monotonic() > end:
                    fail(f"the job has not ended after {seconds} s")
                disturb(self)
                if self.coordinator.process.poll() is not None:
                    self.start_coordinator()  # a StatefulSet's is always started again
                for index, pod in list(self.workers.items()):
                    if (code := pod.process.poll()) is not None:
                        failed = failed or self.over(index, code)
                time.sleep(0.02)
            return "Failed" if failed or any(self.ended.values()) else "Complete"
        finally:
            for pod in [*self.workers.values(), self.coordinator]:
                pod.process.kill()
                pod.process.wait()

    def logs(self):
        return "".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in self.folder.glob("*.log"))

    def steps(self):
        try:
            lines = (self.volume / "runs/first/metrics.jsonl").read_text().splitlines()
        except OSError:
            return 0
        return max((json.loads(line).get("step", 0) for line in lines[-3:] if line.endswith("}")), default=0)


def make_volume(ballot, volume):
    volume.mkdir()
    subprocess.run([ballot, "init", "--hidden", "64", "--layers", "2", "--heads", "4", "--kv-heads", "2", "--out", "llama"],
                   cwd=volume, check=True, capture_output=True)
    (volume / "train.txt").write_text("".join(f"the square of {i} is {i * i}\n" for i in range(300)))
    (volume / "run.toml").write_text(
        '[model]\nfolder = "llama"\n[data]\ntrain = "train.txt"\nsequence_length = 32\n'
        '[train]\nsteps = 150\nbatch = 1\n[output]\nfolder = "runs/first"\n')


def expect(what, holds, cluster):
    if not holds:
        fail(f"{what}\nactions: {cluster.actions}\n{cluster.logs()}")
    print(f"ok: {what}")


class Once:
    """Calls `act(cluster)` once, as soon as the run has made so many steps."""

    def __init__(self, *acts):
        self.acts = list(acts)

    def __call__(self, cluster):
        if self.acts and cluster.steps() >= self.acts[0][0]:
            self.acts.pop(0)[1](cluster)


def run_is_done(cluster):
    made = cluster.steps()
    expect(f"the run has all its steps ({made} of 150)", made == 150, cluster)
    latest = cluster.volume / "runs/first/checkpoints/latest"
    expect("its last checkpoint is on the volume", latest.exists(), cluster)


def disturbed(ballot, folder):
    make_volume(ballot, folder / "volume")
    cluster = Cluster(ballot, folder / "disturbed", folder / "volume",
                      ["--workers", "3", "--max-restarts", "2", "--kube-cpus", "1"])

    def drain(cluster):
        code = cluster.workers[1].terminate()
        expect("a worker whose node is drained leaves with 4", code == 4, cluster)
        cluster.over(1, code, disrupted=True)

    disturb = Once((10, lambda c: c.workers[0].kill()), (30, lambda c: c.coordinator.kill()), (50, drain))
    end = cluster.run(disturb)
    expect("a job whose worker and coordinator are killed, and whose node is drained, is complete",
           end == "Complete" and not disturb.acts, cluster)
    expect("the killed worker was counted and made anew, the drained one not counted",
           (0, 137, "Count") in cluster.actions and (1, 4, "Ignore") in cluster.actions and cluster.failures[1] == 0, cluster)
    run_is_done(cluster)
    again = Cluster(ballot, folder / "again", folder / "volume", ["--workers", "3", "--kube-cpus", "1"])
    expect("a job on the folder of a run that has ended is complete", again.run() == "Complete", again)


def without_data(ballot, folder):
    make_volume(ballot, folder / "volume")
    cluster = Cluster(ballot, folder / "without-data", folder / "volume",
                      ["--workers", "2", "--max-restarts", "9", "--kube-cpus", "1", "--set", "data.train=absent.txt"])
    end = cluster.run()
    expect("data that is not on the volume fails the job at once", end == "Failed" and len(cluster.actions) <= 2, cluster)
    index, code, action = cluster.actions[-1]
    expect(f"and its exit code ({code}) says that a retry cannot help", code in (2, 3) and action == "FailJob", cluster)


def of_members(ballot, folder):
    make_volume(ballot, folder / "volume")
    cluster = Cluster(ballot, folder / "of-members", folder / "volume",
                      ["--workers", "4", "--max-restarts", "2", "--kube-cpus", "2", "--set", "vote.members=2"])

    def drain(cluster):
        code = cluster.workers[0].terminate()
        expect(f"a pod of two processes is asked by its hook and leaves with 4 ({code})", code == 4, cluster)
        cluster.over(0, code, disrupted=True)

    disturb = Once((20, drain))
    end = cluster.run(disturb)
    expect("a job of voters of two members each is complete", end == "Complete" and not disturb.acts, cluster)
    run_is_done(cluster)


def main():
    ballot, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    inside = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if INSIDE not in os.environ:
        if subprocess.run([*inside, "true"], capture_output=True).returncode != 0:
            print("SKIPPED: namespaces are not permitted here: no pod is played")
            sys.exit(77)
        os.execvpe(inside[0], [*inside, sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for variable in ("BALLOT_TOKEN", "RANK", "WORLD_SIZE"):
        os.environ.pop(variable, None)
    for scenario in (disturbed, without_data, of_members):
        work = pathlib.Path(tempfile.mkdtemp(prefix="kubernetes-pods-", dir=folder))
        try:
            scenario(ballot, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)


main()
