"""What to type for a recipe."""

import re

from vit_jax.ledger.records import Entry


def commands(entry: Entry) -> dict[str, str]:
    """The commands that train it, train its small form, and plan it."""
    train = f"vit-jax train --config=configs/{entry.name}.py"
    if entry.arg is not None:
        train += f":{entry.arg}"
    folder = re.sub(r"\W+", "_", entry.spec)
    stand_ins = (f"--config.{one}" for one in entry.planned_with)
    plan = train.replace("train", "plan", 1)
    return {
        "train": " ".join([train, f"--workdir=runs/{folder}", *entry.needs]),
        "smoke": f"{train} --smoke --workdir=runs/{folder}_smoke",
        "plan": " ".join(
            [plan, f"--topology={','.join(entry.topologies)}", *stand_ins]
        ),
    }
