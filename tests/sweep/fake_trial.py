"""A trial that needs no JAX: `fake_trial.py FOLDER KEY=VALUE...`; it resumes.

It counts to `steps`, saves every `every` steps, writes rows of metrics, and says in
`completions` that it came to its end. It imports only what an interpreter has.
"""

import json
import pathlib
import signal
import sys
import time

folder = pathlib.Path(sys.argv[1])
settings = dict(word.split("=", 1) for word in sys.argv[2:])
steps, every = int(settings.get("steps", 20)), int(settings.get("every", 5))
rate = float(settings.get("optim.learning_rate", 0.5))
seed = int(settings.get("seed", 0))
asked_to_stop = []
signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.append(1))


def save(step):
    (folder / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)


def value(step):
    return round(1 - abs(rate - 0.3) - 1 / (step + 1) + seed / 1000, 9)


saved = [int(path.name) for path in folder.glob("checkpoints/*")]
step = max(saved, default=0)
log = folder / "metrics.jsonl"
rows = log.read_text().splitlines(keepends=True) if log.exists() else []
whole = [row for row in rows if row.endswith("\n")]
log.write_text("".join(row for row in whole if json.loads(row)["step"] <= step))
print(f"begins at step {step} of {steps}", flush=True)
while step < steps:
    time.sleep(float(settings.get("pause", 0.01)))
    step += 1
    if step == int(settings.get("fails_at", -1)):
        print("vit-jax: the loss is not finite", file=sys.stderr)
        sys.exit(int(settings.get("code", 1)))
    with log.open("a") as file:
        row = {"step": step, "val/accuracy": value(step), "goodput/step": time.time()}
        file.write(json.dumps(row) + "\n")
    if step % every == 0 or asked_to_stop:
        save(step)
    if asked_to_stop:
        sys.exit(143)
save(step)
with (folder / "completions").open("a") as file:
    file.write("complete\n")
