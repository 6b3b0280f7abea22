"""Each optimizer against a plain loop over layers, written out in float64."""

import numpy as np
import pytest

from tests.optim import trees


def masked(name, path, param):
    """Whether the mask of this name has the parameter (of one layer)."""
    kind = path.rpartition("/")[2]
    return {
        "kernels": kind == "kernel",
        "matrices": kind != "bias" and param.ndim > 1,
        "all": True,
    }[name]


def decayed(s, path, param):
    return s["weight_decay"] * masked(s["decay_mask"], path, param) * param


def trusted(s, path, param, update, coefficient):
    norm = np.sqrt((update**2).sum())
    if not masked(s["trust_mask"], path, param) or norm == 0:
        return update
    return update * coefficient * np.sqrt((param**2).sum()) / norm


def average(state, name, value, decay):
    state[name] = decay * state.get(name, 0.0) + (1 - decay) * value
    return state[name]


def adam(s, gradient, state, t):
    first = average(state, "first", gradient, s["b1"]) / (1 - s["b1"] ** t)
    second = average(state, "second", gradient**2, s["b2"]) / (1 - s["b2"] ** t)
    return first / (np.sqrt(second) + s["eps"])


def adamw(s, path, param, gradient, state, t):
    return adam(s, gradient, state, t) + decayed(s, path, param)


def traced(s, update, state):
    state["sum"] = s["momentum"] * state.get("sum", 0.0) + update
    return state["sum"]


def sgd(s, path, param, gradient, state, t):
    update = traced(s, gradient, state)
    if s["nesterov"]:
        update = gradient + s["momentum"] * update
    return update + decayed(s, path, param)


def adafactor(s, path, param, gradient, state, t):
    b2 = min(s["b2_cap"], 1 - t ** -s["decay_power"])
    squares = gradient**2 + s["eps"]
    by_size = sorted(range(gradient.ndim), key=lambda axis: gradient.shape[axis])
    if gradient.ndim > 1 and gradient.shape[by_size[-2]] >= s["min_factored"]:
        second, largest = by_size[-2:]
        rows = average(state, "rows", squares.mean(largest, keepdims=True), b2)
        columns = average(state, "columns", squares.mean(second, keepdims=True), b2)
        moment = rows * columns / rows.mean(second, keepdims=True)
    else:
        moment = average(state, "moment", squares, b2)
    update = gradient / np.sqrt(moment)
    if s["clip_rms"]:
        update = update / max(1.0, np.sqrt((update**2).mean()) / s["clip_rms"])
    update = average(state, "first", update, s["momentum"])
    rate = s["head_weight_decay" if "/head/" in path else "weight_decay"]
    return update + decayed(s | dict(weight_decay=rate), path, param)


def lamb(s, path, param, gradient, state, t):
    update = adam(s, gradient, state, t) + decayed(s, path, param)
    return trusted(s, path, param, update, 1.0)


def lars(s, path, param, gradient, state, t):
    update = gradient + decayed(s, path, param)
    return traced(s, trusted(s, path, param, update, s["trust_coefficient"]), state)


def lion(s, path, param, gradient, state, t):
    mixed = s["b1"] * state.get("first", 0.0) + (1 - s["b1"]) * gradient
    average(state, "first", gradient, s["b2"])
    return np.sign(mixed) + decayed(s, path, param)


def muon(s, path, param, gradient, state, t):
    kind = "/".join(path.split("/")[-3:])
    inputs = {
        "attention/query/kernel": param.shape[0],
        "attention/out/kernel": int(np.prod(param.shape[:2])),
        "mlp/hidden/kernel": param.shape[0],
        "mlp/out/kernel": param.shape[0],
    }.get(kind)
    if inputs is None:
        update = adam(s, gradient, state, t)
        rate = s["adam_weight_decay"]
        return s["adam_rate"] * (
            update + decayed(s | dict(weight_decay=rate), path, param)
        )
    beta = s["momentum"]
    first = average(state, "first", gradient, beta)
    if s["nesterov"]:
        unbiased = first / (1 - beta ** (t + 1))
        first = beta * unbiased + (1 - beta) * gradient / (1 - beta**t)
    matrix = first.reshape(inputs, -1)
    matrix = matrix / np.sqrt((matrix**2).sum())
    for _ in range(s["iterations"]):
        square = matrix @ matrix.T
        matrix = (
            3.4445 * matrix
            - 4.7750 * square @ matrix
            + 2.0315 * square @ square @ matrix
        )
    outputs = matrix.shape[1]
    scale = s["rms"] * max(inputs, outputs) ** 0.5
    scale = scale or max(1.0, outputs / inputs) ** 0.5
    return scale * matrix.reshape(param.shape) + decayed(s, path, param)


def rate_at(step, peak):
    """The cosine after a warmup of 2 steps."""
    progress = max(0, step - 2) / (trees.STEPS - 2)
    return peak * min(1, step / 2) * 0.5 * (1 + np.cos(np.pi * progress))


def layer_share(path, decay):
    inputs = ("/cls", "/position_embedding", "/embedding/")
    layer = trees.DEPTH + 1
    if any(name in path for name in inputs):
        layer = 0
    for block in range(trees.DEPTH):
        if f"/block{block}/" in path:
            layer = block + 1
    return decay ** (trees.DEPTH + 1 - layer)


def reference(rule, s):
    params = {
        path: value.astype(np.float64)
        for path, value in trees.in_layers(trees.random_flat(0)).items()
    }
    states = {path: {} for path in params}
    for t in range(1, trees.STEPS + 1):
        gradients = trees.in_layers(trees.random_flat(t))
        gradients = {path: g.astype(np.float64) for path, g in gradients.items()}
        total = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        clip = min(1.0, s["clip_norm"] / total) if s["clip_norm"] else 1.0
        for path, param in params.items():
            update = rule(s, path, param, gradients[path] * clip, states[path], t)
            share = layer_share(path, s["layer_decay"])
            params[path] = param - rate_at(t - 1, s["learning_rate"]) * share * update
    return params


CASES = {
    "adamw": dict(decay_mask="matrices", layer_decay=0.7),
    "sgd": dict(nesterov=True, layer_decay=0.8),
    "adafactor": dict(),
    "adafactor clipped": dict(
        clip_rms=0.5, momentum=0.5, b2_cap=0.5, clip_norm=0.0, layer_decay=0.8
    ),
    "lamb": dict(),
    "lamb all": dict(trust_mask="all", decay_mask="all", clip_norm=0.0),
    "lars": dict(learning_rate=2.0),
    "lars all": dict(trust_mask="all", clip_norm=1.0, layer_decay=0.9),
    "lion": dict(decay_mask="all"),
    "muon": dict(),
    "muon plain": dict(
        nesterov=False, rms=0.0, adam_rate=0.5, adam_weight_decay=0.3, layer_decay=0.8
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_a_loop_in_float64(case):
    name = case.partition(" ")[0]
    settings = trees.section(name, **CASES[case])
    wanted = reference(globals()[name], settings)
    gradients = [trees.random_flat(t) for t in range(1, trees.STEPS + 1)]
    tx = trees.build(settings, trees.SCHEDULE)
    got, _ = trees.steps_of(tx, trees.random_flat(0), gradients)
    got = trees.in_layers(got)
    assert got.keys() == wanted.keys()
    for path in wanted:
        # Parameters of up to 3 in float32: some roundings of 2 ** -23 of that.
        np.testing.assert_allclose(
            got[path], wanted[path], rtol=1e-5, atol=2e-6, err_msg=path
        )
