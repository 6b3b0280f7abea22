"""A process of its own that takes and checks locks when told to, for tests of races."""

import json
import os
import pathlib
import subprocess
import sys

# Seconds of a lease in tests: longer than a busy machine keeps a process waiting.
BRIEF = 4.0
ROOT = pathlib.Path(__file__).resolve().parents[1]

# Obeys a command a line: acquire FOLDER TIME, check, release, fork (and release there).
SCRIPT = """
import json, os, sys, time
from vit_jax import lock, storage
from vit_jax.lock import files, objects, owner
assert not {"jax", "etils", "google.cloud.storage"} & set(sys.modules)
if "elsewhere" in sys.argv:  # a host that no kernel lock of the others reaches
    files.try_lock = lambda file: True
    owner._boot = lambda: f"boot of {os.getpid()}"
if "brief" in sys.argv:  # a lease of some seconds
    objects.EXPIRED_SECONDS = float(os.environ["BRIEF"])
held, said = None, []
print("ready", flush=True)
for line in sys.stdin:
    verb, *words = json.loads(line)
    try:
        if verb == "acquire":
            folder, at = words
            while time.time() < at: pass
            held = lock.WorkdirLock(folder, say=said.append).acquire()
        elif verb == "check":
            held.check()
        elif verb == "release":
            held.release()
        elif verb == "fork":
            child = os.fork()
            if not child:
                held.release() if "release" in words else time.sleep(60)
                os._exit(0)
            said.append(child)
        answer = ["ok", said]
    except (lock.LockError, lock.LockLostError, storage.StorageError) as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer), flush=True)
"""


class Worker:
    """The process; every command is answered by ["ok", lines said] or an error."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "BRIEF": str(BRIEF)},
        )
        assert self.process.stdout.readline() == "ready\n"

    def tell(self, *command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, *command):
        self.tell(*command)
        return self.hear()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
