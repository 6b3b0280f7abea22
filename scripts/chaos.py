"""Violence against training runs, and whether they come out of it as promised.

    python scripts/chaos.py --short          # every scenario, small: minutes
    python scripts/chaos.py kill9 flip       # some of them, in full
    python scripts/chaos.py --resume         # the full table, over several runs
    python scripts/chaos.py flip --peer=orbax  # the same damage to plain orbax

Prints a table with counts and seeds; the last line is a verdict, and the exit code
follows it: 0 if every scenario that was run passed, 1 if one failed. Work folders of
trials that fail are kept, with the command that repeats them. A peer is measured, not
judged.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import logging

from chaos_scenarios import SCENARIOS, core, runs
from chaos_scenarios.store import Store, commit, versions


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    add("--short", action="store_true", help="small counts, under 5 minutes in all")
    add("--count", type=int, metavar="N", help="trials of each scenario")
    add("--trial", type=int, metavar="I", help="only this trial")
    add("--seed", type=int, default=0)
    add("--jobs", type=int, default=2, metavar="J", help="trials side by side")
    add("--minutes", type=float, metavar="M", help="start no trial after so long")
    add("--resume", action="store_true", help="add to the counts in the store")
    add("--store", type=pathlib.Path, metavar="FILE", help="where outcomes are kept")
    add("--peer", choices=["orbax"], default="", help="who restores in flip, truncate")
    add("--work", type=pathlib.Path, metavar="DIR", help="scratch space")
    return parser


def make_context(options: argparse.Namespace) -> core.Context:
    """A work folder with the training data in it."""
    if options.work:
        folder = options.work.absolute()
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="chaos-"))
    arrays = folder / "images.npz"
    if not arrays.exists():
        runs.write_arrays(arrays)
    return core.Context(
        folder=folder,
        data=(f"data.name=arrays:{arrays}",),
        short=options.short,
        peer=options.peer,
    )


def wanted(scenario: core.Scenario, options: argparse.Namespace) -> list[int]:
    """Indices of the trials to be run."""
    if options.trial is not None:
        return [options.trial]
    count = options.count or (scenario.short if options.short else scenario.count)
    return list(range(count))


def repeat_command(name: str, options: argparse.Namespace, trial: int) -> str:
    """How to run one trial alone."""
    peer = f" --peer={options.peer}" if options.peer else ""
    return (
        f"python scripts/chaos.py {name} --seed={options.seed} --trial={trial}{peer}"
        f"{' --short' if options.short else ''}"
    )


def run_scenario(
    name: str,
    options: argparse.Namespace,
    context: core.Context,
    store: Store,
    *,
    deadline: float,
    broken: dict[str, str],
) -> str:
    """Runs what is missing of a scenario; returns why it could not run, or ""."""
    scenario = SCENARIOS[name]
    label = f"{name}:{options.peer}" if options.peer else name
    have = {row.trial for row in store.records(label) if row.seed == options.seed}
    indices = [index for index in wanted(scenario, options) if index not in have]
    here = commit()

    def done(index: int, outcome: core.Outcome) -> None:
        store.add(label, core.Record(options.seed, index, here, outcome))
        if not outcome.good and not options.peer:
            print(f"{name} trial {index}: {outcome.kind}\n  {outcome.detail}")
            print(f"  again: {repeat_command(name, options, index)}", flush=True)

    begun = time.monotonic()
    try:
        core.run_trials(
            scenario,
            context,
            indices,
            seed=options.seed,
            jobs=options.jobs,
            deadline=deadline,
            done=done,
        )
    except core.CannotRunError as error:
        return str(error)
    except core.PrepareError as error:
        print(f"{name}: {error}", flush=True)
        broken[label] = str(error)
    if indices:
        print(f"{label}: {time.monotonic() - begun:.0f} s", flush=True)
    return ""


def print_table(
    labels: Sequence[str], store: Store, not_run: dict[str, str], broken: dict[str, str]
) -> list[str]:
    """Prints a row per scenario; returns the names of those that failed."""
    failed = list(broken)
    print(
        "\n| scenario | bar | result | n | seeds | commits |\n|---|---|---|---|---|---|"
    )
    for label in labels:
        scenario = SCENARIOS[label.partition(":")[0]]
        records = store.records(label)
        outcomes = [record.outcome for record in records]
        if not outcomes:
            why = not_run.get(label) or "no trial in the time given"
            text = (
                f"FAIL: {broken[label].splitlines()[0]}"
                if label in broken
                else f"not run: {why}"
            )
            print(f"| {label} | {scenario.bar} | {text} | 0 | | |")
            continue
        good = core.passed(scenario, outcomes)
        word = "pass" if good else "FAIL"
        words = ["" if ":" in label else word, core.counted(outcomes)]
        words += [scenario.figures(outcomes), scenario.complain(outcomes)]
        result = "; ".join(word for word in words if word)
        seeds = ", ".join(map(str, sorted({record.seed for record in records})))
        commits = ", ".join(sorted({record.commit for record in records}))
        print(
            f"| {label}: {scenario.what} | {scenario.bar} | "
            f"{result} | {len(outcomes)} | {seeds} | {commits} |"
        )
        if not good and label not in broken and ":" not in label:
            failed.append(label)
    print("\n" + ", ".join(f"{name} {number}" for name, number in versions().items()))
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs scenarios, prints the table and the verdict."""
    parser = build_parser()
    options = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # orbax's remarks on its own files
    names = options.scenarios or list(SCENARIOS)
    if options.peer and not options.scenarios:
        names = ["flip", "truncate"]
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    if options.peer and set(names) - {"flip", "truncate"}:
        parser.error("--peer compares flip and truncate only")
    if options.resume and not options.store:
        options.store = pathlib.Path("runs/chaos.json")
    store = Store(options.store, resume=options.resume)
    context = make_context(options)
    limit = 60 * options.minutes if options.minutes else float("inf")
    deadline = time.monotonic() + limit
    labels = [f"{name}:{options.peer}" if options.peer else name for name in names]
    not_run: dict[str, str] = {}
    broken: dict[str, str] = {}
    stopped = False
    try:
        for name, label in zip(names, labels, strict=True):
            not_run[label] = run_scenario(
                name, options, context, store, deadline=deadline, broken=broken
            )
    except KeyboardInterrupt:
        stopped = True
    finally:
        runs.kill_all()
    failed = print_table(labels, store, not_run, broken)
    if failed:
        print(f"trials that failed are in {context.folder}")
    elif not options.work:
        shutil.rmtree(context.folder, ignore_errors=True)
    return verdict(labels, store, failed, stopped)


def verdict(
    labels: Sequence[str], store: Store, failed: Sequence[str], stopped: bool
) -> int:
    """Prints the last line and returns the exit code."""
    run = [label for label in labels if store.records(label)]
    missing = [label for label in labels if label not in {*run, *failed}]
    left = f"; not run: {', '.join(missing)}" if missing else ""
    if failed:
        print(f"FAILED: {', '.join(failed)}{left}")
        return 1
    if stopped:
        print(f"interrupted; {len(run)} scenarios passed so far{left}")
        return 130
    if not run:
        print(f"NOTHING RUN{left}")
        return 1
    if all(":" in label for label in labels):
        print(f"COMPARED: {', '.join(run)}{left}")
        return 0
    print(f"PASSED: {len(run)} scenarios{left}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
