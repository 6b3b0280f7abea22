"""JAX functions in TensorFlow, which is imported here only, and kept to the CPU."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.export
from jax.interpreters import mlir
from jaxlib.mlir import ir, passmanager
from jaxlib.mlir.dialects import stablehlo

from vit_jax.weights import serving
from vit_jax.weights.files import WeightsError

# Of spring 2024: TensorFlow's StableHLO is behind that of a JAX of the same day.
VERSION = "1.0.0"
# TensorFlow gives composites no shapes when the batch is free.
PASSES = "builtin.module(func.func(stablehlo-legalize-composite-to-call),inline)"


def import_tensorflow() -> Any:
    """TensorFlow, quiet and on the CPU.

    Raises:
      WeightsError: it is not installed, or does not work.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow as tf
    except (ImportError, RuntimeError) as error:
        line = next(iter(str(error).splitlines()), repr(error))
        raise WeightsError(
            f"TensorFlow is needed: pip install tensorflow-cpu ({line})"
        ) from None
    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError):  # already initialised: as it is
            tf.config.set_visible_devices([], kind)
    return tf


def embed(function: Callable[..., Any], *shapes: Any) -> Callable[..., Any]:
    """A JAX function with one float32 output as a function of TensorFlow's tensors.

    Its StableHLO program is in one operation, for every platform of
    `serving.PLATFORMS`; the shapes are refined to the batch when it is run.

    Args:
      function: of arrays, or trees of them.
      shapes: of its arguments, with symbols for free sizes.

    Raises:
      WeightsError: TensorFlow is not installed.
    """
    tf = import_tensorflow()
    from tensorflow.compiler.tf2xla.python import xla

    export = jax.export.export(jax.jit(function), platforms=serving.PLATFORMS)
    exported = export(*shapes)
    program = _for_older_readers(exported.mlir_module_serialized)
    (output,) = exported.out_avals
    sizes = [size if isinstance(size, int) else None for size in output.shape]

    def call(*arguments: Any) -> Any:
        flat = jax.tree.leaves(arguments)
        (result,) = xla.call_module(
            [flat[place] for place in exported.module_kept_var_idx],
            version=exported.calling_convention_version,
            module=program,
            Sout=[sizes],
            Tout=[tf.float32],
            platforms=[platform.upper() for platform in exported.platforms],
        )
        return result

    return call


def _for_older_readers(program: bytes) -> bytes:
    """A serialised program in StableHLO of ``VERSION``, without composites."""
    stablehlo.register_stablehlo_passes()
    with mlir.make_ir_context():
        module = ir.Module.parse(stablehlo.deserialize_portable_artifact_str(program))
        passmanager.PassManager.parse(PASSES).run(module.operation)
        return stablehlo.serialize_portable_artifact(module, VERSION)
