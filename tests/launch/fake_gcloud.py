"""A gcloud that does as a scenario says, and runs what workers are told on this host.

Called as `gcloud`. $FAKE is a folder: `scenario.json` lists the states that the queued
resource goes through, one each time it is asked for (LOST: active, and its machines are
preempted); `calls.txt` gets a line a call; `NODE-WORKER/` is the home of a worker.
Creating starts the next list of states with new, empty machines.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

FAKE = pathlib.Path(os.environ["FAKE"])


def load(name, default):
    path = FAKE / name
    return json.loads(path.read_text()) if path.exists() else default


def save(name, value):
    (FAKE / name).write_text(json.dumps(value))


def flag(name, default=None):
    found = [one for one in sys.argv if one.startswith(f"--{name}=")]
    return found[-1].partition("=")[2] if found else default


def workers(node):
    count = load("scenario.json", {})["workers"]
    chosen = range(count) if flag("worker") == "all" else [int(flag("worker"))]
    return [FAKE / f"{node}-{index}" for index in chosen]


def next_state():
    """Of the resource that is there; the last one stays."""
    states = load("states.json", [])
    if not states:
        return ""
    if len(states) > 1:
        save("states.json", states[1:])
    save("nodes.json", "PREEMPTED" if states[0] == "LOST" else "READY")
    return "ACTIVE" if states[0] == "LOST" else states[0]


def create():
    lives = load("scenario.json", {})["lives"]
    life = load("life.json", 0)
    save("states.json", lives[min(life, len(lives) - 1)])
    save("life.json", life + 1)


def delete():
    save("states.json", [])
    for folder in FAKE.glob("vit-*-*"):
        pid = folder / "vit-b16" / "pid"
        if pid.exists():  # the machine is gone, and so is what ran on it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)
        shutil.rmtree(folder)


def ssh(node):
    code = 0
    for home in workers(node):
        home.mkdir(exist_ok=True)
        environ = os.environ | {"HOME": str(home), "WORKER": home.name}
        code |= subprocess.run(
            ["bash", "-c", flag("command")], cwd=home, env=environ
        ).returncode
    return code


def scp(files, target):
    node, _, folder = target.partition(":")
    for home in workers(node):
        for file in files:
            shutil.copy(file, home / folder)


def main():
    words = [one for one in sys.argv[1:] if not one.startswith("--")]
    shown = " ".join(one for one in sys.argv[1:] if not one.startswith("--zone"))
    with open(FAKE / "calls.txt", "a") as calls:
        print(shown, file=calls)
    if words[:2] == ["secrets", "versions"]:
        print(f"value-of-{flag('secret')}")
        return 0
    kind, verb = words[2], words[3]
    if kind == "queued-resources":
        if verb == "list":
            print(next_state())
        elif verb == "create":
            create()
        elif verb == "delete":
            delete()
        return 0
    if verb == "list":
        print(load("nodes.json", "READY"))
        return 0
    if verb == "ssh":
        return ssh(words[4])
    if verb == "scp":
        scp(words[4:-1], words[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
