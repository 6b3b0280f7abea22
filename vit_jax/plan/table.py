"""A plan as text: a table a topology, and what is predicted said as such."""

from vit_jax.plan.plan import Plan

# By shapes, against the compiler: the worst of the programs in
# docs/reference/planning.md, most are 5 %.
ERROR = 0.15

_PARTS = {
    "params": "parameters",
    "opt_state": "optimizer state",
    "ema": "moving average",
    "batch": "batch",
    "gradients": "gradients",
    "copies": "parameters in bfloat16",
    "activations": "activations (estimate)",
    "working": "working memory (estimate)",
    "program": "program (estimate)",
}


def render(plan: Plan) -> str:
    """The table of one topology."""
    place = plan.topology
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1)
    rows = [
        ("mesh", mesh or "one device"),
        ("parameters", f"{plan.parameters / 1e6:,.1f} M"),
        ("FLOPs an image", f"{_short(plan.flops_per_image / 1e9)} G, with backward"),
        ("FLOPs a step", f"{_short(plan.step_flops / 1e12)} T, of all devices"),
        ("memory a chip", _memory(plan)),
    ]
    if plan.mode == "shapes":
        rows += [
            (f"  {_PARTS[name]}", f"{value:,.2f} GiB")
            for name, value in plan.memory_parts.items()
            if value
        ]
    rows.append(("sent a device", _sent(plan)))
    if plan.kernels:
        rows.append(("kernels", ", ".join(plan.kernels)))
    if plan.compile_seconds is not None:
        rows.append(("compiled in", f"{plan.compile_seconds:,.0f} s"))
    low, high = plan.step_seconds
    rows.append(("predicted step", f"{_seconds(low)} to {_seconds(high)}"))
    if plan.days:
        rows.append(
            ("predicted run", f"{_days(plan.days[0])} to {_days(plan.days[1])}")
        )
    else:
        rows.append(("predicted run", "length unknown; set train.duration in steps"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{place} ({place.count_name}): {_count(plan)}"]
    lines += [f"  {name:{width}}  {text}" for name, text in rows]
    lines += [f"  note: {note}" for note in plan.notes]
    if plan.tried:
        lines += _ranking(plan)
    return "\n".join(lines)


def _count(plan: Plan) -> str:
    place = plan.topology
    words = [
        (place.chips, "chip" if place.chip.is_tpu else "GPU"),
        (place.hosts, "host"),
    ]
    if place.chip.is_tpu:
        words.append((place.cores, "core"))
    if place.slices > 1:
        words.append((place.slices, "slice"))
    return ", ".join(f"{n:,} {word}{'' if n == 1 else 's'}" for n, word in words)


def _memory(plan: Plan) -> str:
    how = {
        "compiled": "by the compiler",
        "shapes": f"by shapes, an estimate to {ERROR:.0%}",
    }[plan.mode]
    verdict = "fits" if plan.fits else "does NOT fit"
    needed = (
        "more than it has"
        if plan.memory_gib != plan.memory_gib
        else (f"{plan.memory_gib:,.2f} GiB")
    )
    return f"{needed} of {plan.limit_gib:,.2f}: {verdict} ({how})"


def _sent(plan: Plan) -> str:
    parts = ", ".join(
        f"{name} {_short(value)}" for name, value in plan.collectives.items() if value
    )
    counted = plan.mode == "compiled" and "reduce" not in plan.collectives
    how = "counted" if counted else "from the shardings, an estimate"
    return (
        f"{_short(plan.collective_gb)} GB a step{f': {parts}' if parts else ''} ({how})"
    )


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{_short(1e3 * value)} ms"


def _days(value: float) -> str:
    return f"{value:,.1f} days" if value >= 1 else f"{_short(24 * value)} hours"


def _short(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ranking(plan: Plan) -> list[str]:
    """The best choices of a search, and the flags of the first."""
    fitting = sum(one.fits for one in plan.tried)
    lines = [f"  compared {len(plan.tried)} choices, {fitting} fit; the first:"]
    for one in plan.tried[:8]:
        low, high = one.step_seconds
        flags = " ".join(one.overrides).replace("--config.", "")
        lines.append(
            f"    {'fits' if one.fits else 'no  '} {one.memory_gib:8.2f} GiB  "
            f"{_seconds(low):>8} to {_seconds(high):<8} {one.mode:8} "
            f"{flags or '(the config as it is)'}"
        )
    if plan.fits:
        flags = " ".join(plan.overrides)
        lines.append(f"  the best that fits: {flags or 'the config as it is'}")
    else:
        lines.append(
            "  none fits: more chips, a smaller train.batch_size or a smaller model"
        )
    return lines
