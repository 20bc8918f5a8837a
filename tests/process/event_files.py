"""Event files read by TensorBoard's own reader: every number of metrics.jsonl under its name, once a step, also where
a run was killed and resumed from an older step.

    event_files.py BALLOT
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ballot = pathlib.Path(sys.argv[1]).resolve()


def fail(text):
    sys.exit(f"event_files.py: {text}")


def lines_of(run, kind):
    with open(run / "metrics.jsonl") as file:
        return [line for line in map(json.loads, file) if line["type"] == kind]


def launch(folder, settings, wait=True):
    words = [ballot, "launch", "run.toml", "--workers", "3"]
    for setting in settings:
        words += [setting] if setting.startswith("--") else ["--set", setting]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if wait:
        output, _ = process.communicate(timeout=300)
        if process.returncode != 0:
            fail(f"{settings} ended with {process.returncode}\n{output}")
    return process


def below(parent):
    """The processes that a process has started, theirs and so on."""
    children = []
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    children.append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return children + [process for child in children for process in below(child)]


def words_of(process):
    try:
        return pathlib.Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def read(run):
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return reader


def expect_equal(run):
    """Every number of every step line is what TensorBoard has, and TensorBoard has no other steps."""
    reader = read(run)
    expected = {}
    for line in lines_of(run, "step"):
        for name, value in line.items():
            if name in ("step", "time"):
                continue
            values = {name: value} if not isinstance(value, list) else {f"{name}/{i}": v for i, v in enumerate(value)}
            for tag, number in values.items():
                if isinstance(number, (int, float)):
                    expected.setdefault(tag, []).append((line["step"], number))
    for line in lines_of(run, "evaluation"):
        expected.setdefault("evaluation/loss", []).append((line["step"], line["loss"]))
    if len(expected) < 25:
        fail(f"{run}: only {sorted(expected)} in metrics.jsonl")
    for tag, points in expected.items():
        if tag not in reader.Tags()["scalars"]:
            fail(f"{run}: TensorBoard has no {tag}")
        seen = [(event.step, event.value) for event in reader.Scalars(tag)]
        if [step for step, _ in seen] != [step for step, _ in points]:
            fail(f"{run}: {tag} has steps {[s for s, _ in seen]}, the record {[s for s, _ in points]}")
        for (step, value), (_, number) in zip(seen, points):
            if abs(value - number) > 1e-6 * abs(number) + 1e-12:
                fail(f"{run}: {tag} of step {step} is {value}, the record says {number}")
    for event, line in zip(reader.Scalars("rate"), lines_of(run, "step")):
        if abs(event.wall_time - line["time"]) > 30:  # the event is written first, whatever the disk does then
            fail(f"{run}: step {event.step} happened at {event.wall_time}, the record says {line['time']}")
    known = set(expected) | {"evaluation/tokens", "evaluation/seconds", "checkpoint/write(s)", "checkpoint/bytes"}
    if other := set(reader.Tags()["scalars"]) - known:
        fail(f"{run}: TensorBoard has {sorted(other)} besides")
    return len(expected)


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    made = [ballot, "init", "--hidden", "64", "--layers", "2", "--heads", "4", "--kv-heads", "2", "--out", "model"]
    subprocess.run(made, cwd=folder, check=True, capture_output=True, timeout=60)
    (folder / "text.txt").write_text("".join(f"the square of {i} is {i * i}\n" for i in range(300)))
    (folder / "run.toml").write_text(
        '[model]\nfolder = "model"\n[data]\ntrain = "text.txt"\nvalidation = "text.txt"\nsequence_length = 32\n'
        "[train]\nsteps = 12\nbatch = 2\ncheckpoint_every = 5\nevaluate_every = 4\n"
        '[output]\nfolder = "out"\ntensorboard = true\n'
    )
    run = folder / "out"
    launch(folder, [])
    tags = expect_equal(run)
    print(f"tensorboard: {tags} curves of 12 steps are those of metrics.jsonl")

    # Goes on to step 17, then is taken back to the checkpoint of step 12 and repeats the rest otherwise.
    launch(folder, ["--resume", "train.steps=17", "train.checkpoint_every=100"])
    expect_equal(run)
    for checkpoint in (run / "checkpoints").glob("step-*17"):
        subprocess.run(["rm", "-r", str(checkpoint)], check=True)
    launch(folder, ["--resume=checkpoint", "train.steps=20"])
    expect_equal(run)
    made = len(list((run / "tensorboard").iterdir()))
    if made != 3:
        fail(f"{made} event files of 3 starts")
    print("tensorboard: resumed twice, the second time from an older step: each step once")

    # Elastic: whoever writes the record is killed, another goes on, the first comes back and takes over again.
    settings = ["--elastic", "output.folder=elastic", "train.steps=1000000", "train.checkpoint_every=100", "--max-restarts=5"]
    run = folder / "elastic"
    job = launch(folder, settings, wait=False)

    def steps():
        metrics = run / "metrics.jsonl"
        return metrics.read_text().count('"type":"step"') if metrics.exists() else 0

    def files():
        return len(list((run / "tensorboard").glob("events.*")))

    def wait(what, holds):
        end = time.monotonic() + 120
        while not holds():
            if time.monotonic() > end or job.poll() is not None:
                job.kill()
                fail(f"{what}: does not happen\n{job.communicate()[0]}")
            time.sleep(0.05)

    def child(job, flag, value):
        for process in below(job.pid):
            words = words_of(process)
            if (flag, value) in zip(words, words[1:]):
                return process
        fail(f"no process with {flag} {value}")

    wait("an elastic run begins", lambda: steps() > 10)
    before = files()
    os.kill(child(job, "--worker", "0"), signal.SIGKILL)
    wait("another worker writes the record", lambda: files() > before)
    then = steps()
    wait("it goes on", lambda: steps() > then + 10)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=120)
    expect_equal(run)
    print(f"tensorboard: an elastic run of {files()} writers: each step once")

    # Killed at no moment in particular.
    killed = launch(folder, ["output.folder=killed", "train.steps=1000000"], wait=False)
    end = time.monotonic() + 60
    metrics = folder / "killed" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count('"type":"step"') > 20):
        if time.monotonic() > end or killed.poll() is not None:
            fail("the run to be killed does not begin")
        time.sleep(0.01)
    for process in below(killed.pid) + [killed.pid]:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass
    killed.communicate(timeout=60)
    recorded = [line["step"] for line in map(json.loads, metrics.read_text().splitlines()[:-1]) if line["type"] == "step"]
    seen = [event.step for event in read(folder / "killed").Scalars("rate")]
    if seen[: len(recorded)] != recorded:
        fail(f"killed: TensorBoard has steps to {seen[-1]}, the record to {recorded[-1]}")
    print(f"tensorboard: killed after step {recorded[-1]}, all its steps are there")
