"""Which steps are kept, which are verified next, which is the best."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

LOWER = ("loss", "ece", "mse")  # ends of names of which less is better


def rank(evaluations: Mapping[str, float], best: str) -> float:
    """Higher is better; those of LOWER are turned round, a missing one comes last."""
    value = evaluations.get(best, math.nan)
    if math.isnan(value):
        return -math.inf
    return -value if best.endswith(LOWER) else value


def ranks(metas: Mapping[int, Any], best: str) -> dict[int, float]:
    """The rank of every step whose evaluations were measured at that step."""
    return {
        step: rank(meta.evaluations, best)
        for step, meta in metas.items()
        if best and meta.measured
    }


def best_of(ranks: Mapping[int, float], among: Collection[int]) -> int | None:
    """The best step, the newest of equals; None where none has a number."""
    ranked = [(r, step) for step, r in ranks.items() if r > -math.inf and step in among]
    return max(ranked)[1] if ranked else None


def next_to_verify(
    steps: Sequence[int], verified: Collection[int], keep: int
) -> int | None:
    """The step to read back next, or None when enough is known.

    The newest first: where saves come faster than they can be read back, those in
    between are never looked at, and do not pile up.
    """
    pending = [step for step in steps if step not in verified]
    if not pending:
        return None
    newest = max(pending)
    enough = len(verified) >= keep and newest < max(verified)
    return None if enough else newest


def preserved(
    steps: Collection[int],
    verified: Collection[int],
    ranks: Mapping[int, float],
    keep: int,
) -> set[int]:
    """The steps to keep.

    The newest ``keep`` verified ones, what is newer than those, and the best. While
    fewer are verified, all: what is older and unverified may be all that is right.
    """
    verified = sorted(set(verified) & set(steps))
    if len(verified) < keep:
        return set(steps)
    kept = {*verified[-keep:], *(step for step in steps if step > verified[-1])}
    best = {best_of(ranks, steps), best_of(ranks, verified)}
    return kept | (best - {None})  # pyright: ignore[reportReturnType]
