"""Two calls of orbax that tensorstore never frees, kept from being made.

What tensorstore 0.1 returns as Python objects from a specification or from its metrics
is never freed. Orbax 0.12 asks for both at each save, once an array: to resolve a
specification, which changes nothing in those that it makes itself, and for a log line.
500 saves of a small model grew by 23 MB.
"""

import importlib
from collections.abc import Mapping
from typing import Any

_MODULE = "orbax.checkpoint._src.serialization.tensorstore_utils"


class _Spec:
    """Stands for `tensorstore.KvStore.Spec`, which cannot be derived from."""

    def __init__(self, spec: Mapping[str, Any]):
        self._spec = dict(spec)

    def to_json(self) -> dict[str, Any]:
        """What was given: orbax gives a driver and a path, all that there is."""
        return dict(self._spec)


class _Without:
    """A module or class, some of its names replaced."""

    def __init__(self, whole: Any, **replaced: Any):
        self._whole = whole
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


def avoid() -> bool:
    """Keeps orbax from both calls; whether it is an orbax that makes them."""
    try:
        module = importlib.import_module(_MODULE)
        tensorstore = module.ts
        kvstore = tensorstore.KvStore
    except (ImportError, AttributeError):
        return False
    if isinstance(tensorstore, _Without):
        return True

    def open_store(spec: Any, **how: Any) -> Any:
        return kvstore.open(spec.to_json() if isinstance(spec, _Spec) else spec, **how)

    without = _Without(
        tensorstore,
        KvStore=_Without(kvstore, Spec=_Spec, open=open_store),
        experimental_collect_matching_metrics=lambda *_: [],
    )
    vars(module)["ts"] = without
    return True
