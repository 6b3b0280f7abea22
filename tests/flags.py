"""XLA_FLAGS of the tests; it imports nothing, as they come before the import of jax.

Most of a test's time is compilation, and its programs run once or twice: LLVM need not
optimise, one part of a program is enough, and the newer emitters, which start MLIR anew
for every fusion, take half of the time by themselves. A jaxlib without the older ones
takes no notice of the last option.
"""

QUICK = (
    "--xla_backend_optimization_level=0 "
    "--xla_cpu_parallel_codegen_split_count=1 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)


def on_devices(number):
    """That many devices on a CPU."""
    return f"--xla_force_host_platform_device_count={number} {QUICK}"
