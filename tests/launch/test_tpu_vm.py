"""The scripts of tpu-vm, run against a gcloud that does as a scenario says."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.launch import cases

FAKE = pathlib.Path(__file__).parent / "fake_gcloud.py"

# `python3` of a TPU machine: makes an environment whose pip notes what it installs, and
# whose vit-jax does what the scenario says for this start of this worker.
PYTHON = """#!/bin/bash
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" ;;
  *) exit 0 ;;
esac
cat > "$3/bin/pip" <<'END'
#!/bin/bash
echo "${WORKER} ${*: -1}" >> "$FAKE/installed.txt"
END
cat > "$3/bin/vit-jax" <<'END'
#!/bin/bash
echo "$WORKER $TFDS_DATA_DIR $WANDB_API_KEY $*" >> "$FAKE/trained.txt"
echo "a line of $WORKER"
count=$(grep -c "^$WORKER " "$FAKE/trained.txt")
action=$(sed -n "${count}p" "$FAKE/actions.txt")
[ "$action" = run ] || exit "$action"
trap 'exit 143' TERM
while :; do sleep 0.05; done
END
chmod +x "$3/bin/pip" "$3/bin/vit-jax"
"""


class Cloud:
    """A folder with the scripts, the fake tools and what they noted."""

    def __init__(self, folder, place, lives, actions, **changes):
        self.fake, tools = folder / "fake", folder / "tools"
        self.fake.mkdir()
        tools.mkdir()
        rendered = cases.render("tpu-vm", place, folder, **changes)
        self.launch = folder / "launch"
        self.launch.mkdir()
        for name, text in rendered.files.items():
            (self.launch / name).write_text(text)
        shipped = cases.wheel(folder)
        (self.launch / shipped.name).write_bytes(shipped.read_bytes())
        hosts, _, _ = cases.TABLE[place]
        slices = 2 if place.startswith("2*") else 1
        scenario = {"lives": lives, "workers": hosts // slices}
        (self.fake / "scenario.json").write_text(json.dumps(scenario))
        (self.fake / "actions.txt").write_text("".join(f"{one}\n" for one in actions))
        gcloud = f'#!/bin/bash\nexec {sys.executable} -IS {FAKE} "$@"\n'
        for name, text in (("gcloud", gcloud), ("python3", PYTHON)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.environ = os.environ | {
            "FAKE": str(self.fake),
            "PATH": f"{tools}:{os.environ['PATH']}",
            "POLL": "0.1",
        }

    def start(self, *verb, **variables):
        return subprocess.Popen(
            ["bash", self.launch / "launch.sh", *verb],
            env=self.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *verb, **variables):
        process = self.start(*verb, **variables)
        try:
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
        return process.returncode, output

    def read(self, name):
        path = self.fake / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self):
        """What was asked of gcloud, without the looks at how things are."""
        found = []
        for line in self.read("calls.txt"):
            verb = re.match(r"compute tpus (queued-resources|tpu-vm) (\w+)", line)
            if verb and verb[2] in ("create", "delete", "scp"):
                found.append(verb[2])
            elif "worker.sh start" in line:
                found.append("start")
        return found


@pytest.fixture
def cloud(tmp_path):
    """Makes a cloud; what still runs of it is ended."""
    made = []

    def make(lives, actions, place="v5e-16", **changes):
        made.append(Cloud(tmp_path, place, lives, actions, **changes))
        return made[-1]

    yield make
    for one in made:
        for pid in one.fake.glob("*/vit-b16/pid"):
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue


WAITS = ["WAITING_FOR_RESOURCES", "PROVISIONING"]
ONE = ["create", "scp", "start"]


def test_preempted_twice_it_is_asked_for_again_and_ends(cloud):
    lives = [
        [*WAITS, "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED"],
        ["ACTIVE", "ACTIVE", "LOST"],
        ["PROVISIONING", "ACTIVE"],
    ]
    run = cloud(lives, ["run", "run", "0"])
    code, output = run.run()
    assert code == 0, output
    assert run.calls() == [*ONE, "delete", *ONE, "delete", *ONE, "delete"]
    create = next(one for one in run.read("calls.txt") if " create " in one)
    assert create.split()[3:] == [
        *("create", "vit-b16", "--accelerator-type=v5litepod-16"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--node-id=vit-b16"),
        *("--spot", "--quiet"),
    ]
    # Every worker, each time, with the variables, the secret and the same work directory.
    trained = run.read("trained.txt")
    line = (
        "gs://bucket/tfds value-of-WANDB_API_KEY train "
        "--config=configs/vit_i21k.py:B/16 --workdir=gs://bucket/run "
        "--config.train.batch_size=4096"
    )
    assert sorted(trained) == sorted(
        f"vit-b16-{worker} {line}" for worker in range(4) for _ in range(3)
    )
    wheel = "./vit_jax-0.1.0-py3-none-any.whl[tpu,gcs]"
    assert set(run.read("installed.txt")) == {
        f"vit-b16-{worker} {wheel}" for worker in range(4)
    }
    assert output.count(" preempted\n") == 2
    assert "a line of vit-b16-0" in (run.launch / "train.log").read_text()


@pytest.mark.slow
def test_both_slices_are_made_and_train(cloud):
    lives = [["ACTIVE"]]
    run = cloud(lives, ["0"], place="2*v6e-256")
    # Of 64 workers a slice, 2: this host has not so many cores.
    (run.fake / "scenario.json").write_text(json.dumps({"lives": lives, "workers": 2}))
    script = run.launch / "launch.sh"
    assert "\nHOSTS=128\n" in script.read_text()
    script.write_text(script.read_text().replace("\nHOSTS=128\n", "\nHOSTS=4\n"))
    code, output = run.run(KEEP="1")
    assert code == 0, output
    assert {line.split()[0] for line in run.read("trained.txt")} == {
        f"vit-b16-{node}-{worker}" for node in range(2) for worker in range(2)
    }
    (create,) = [one for one in run.read("calls.txt") if " create " in one]
    assert "--node-count=2 --node-prefix=vit-b16" in create
    assert "delete" not in run.calls()
    assert "is kept, and costs" in output


def test_a_mistake_ends_it_at_once(cloud):
    run = cloud([["ACTIVE"]], ["2"])
    code, output = run.run()
    assert code == 2
    assert "vit-jax ended with code 2 on a worker" in output
    assert run.calls() == [*ONE, "delete"]


@pytest.mark.slow
def test_failures_start_again_at_most_so_often(cloud):
    run = cloud([["ACTIVE"]], ["5", "4", "3"], retries=2)
    code, output = run.run()
    assert code == 3
    assert run.calls() == [*ONE, "start", "start", "delete"]
    assert "code 3 on a worker; failure 3, and 2 start again" in output


def test_a_resource_that_fails_is_told(cloud):
    run = cloud([["FAILED"]], ["0"], retries=1)
    code, output = run.run()
    assert code == 1
    assert run.calls() == ["create", "delete", "create", "delete"]
    assert "the resource failed; failure 2, and 1 start again" in output


@pytest.mark.slow
def test_workers_that_do_not_answer_are_waited_for(cloud):
    run = cloud([["ACTIVE"]], ["0"])
    script = run.launch / "launch.sh"
    script.write_text(script.read_text().replace("\nHOSTS=4\n", "\nHOSTS=5\n"))
    process = run.start()
    said = [process.stdout.readline() for _ in range(4)]
    process.kill()
    process.communicate()
    assert "of 5 workers 4 answer" in said[-1], said
    assert "start" not in run.calls()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_it_may_be_stopped_and_started_at_any_moment(cloud):
    run = cloud([["ACTIVE"]], ["run", "0"])
    first = run.start()
    wait_for(lambda: len(run.read("trained.txt")) == 4)
    first.kill()
    first.communicate()
    second = run.start()
    looks = len(run.read("calls.txt"))
    wait_for(lambda: len(run.read("calls.txt")) > looks + 6)
    assert run.calls() == ONE  # nothing twice
    code, output = run.run("status")
    assert output.split() == ["ACTIVE", *["running"] * 4]
    code, _ = run.run("stop")
    assert code == 0
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 143
    assert "stopped; the same command goes on" in output
    assert run.calls() == [*ONE, "delete"]
    assert len(run.read("trained.txt")) == 4
    code, output = run.run()
    assert code == 0
    assert len(run.read("trained.txt")) == 8


def test_an_unknown_verb_shows_the_known_ones(cloud):
    code, output = cloud([[]], []).run("halt")
    assert code == 2
    assert "launch.sh delete   deletes the resource" in output
