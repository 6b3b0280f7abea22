"""The `train` verb: its arguments, its exit codes and what it says at the end.

Exit codes: 0 done; 1 something ended a run that had begun (it diverged, a checkpoint
could not be written, an example could not be read); 2 a mistake in the call, the
config or the data, or another run in the work directory; 3 no progress (watchdog.py);
4 another process of the run is gone; 5 the lock on the work directory was lost;
130 and 143 after Ctrl-C and SIGTERM. After all but 0 and 2, the same command resumes.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import time
import traceback

from vit_jax.cli_errors import is_users_mistake
from vit_jax.stopping import Stop, exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vit-jax train`."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="a config file; ARG goes to its get_config, e.g. the size",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="where the run lives (default: runs/NAME OF THE CONFIG)",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="the recipe's small form, a minute on a CPU: tiny model, striped images, "
        "64 steps; --config.KEY=VALUE is applied to it",
    )
    parser.add_argument(
        "--allow_config_change",
        action="store_true",
        help="resume although the config asks for another run",
    )
    several = parser.add_argument_group(
        "several processes, one run",
        "Needed where no scheduler says it: Slurm (srun), Open MPI (mpirun), Cloud "
        "TPU, GKE, SkyPilot or the variables JAX_COORDINATOR_ADDRESS, "
        "JAX_NUM_PROCESSES and JAX_PROCESS_ID. What is given here wins; "
        "--num_processes=1 trains alone.",
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of the first process"
    )
    several.add_argument("--num_processes", type=int, metavar="N")
    several.add_argument("--process_id", type=int, metavar="I", help="from 0")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Loads the config, trains, prints how it ended."""
    options.started = time.perf_counter()
    with Stop(say=_say) as stop:
        config = load(options, overrides)
        name = pathlib.PurePath(options.config.partition(":")[0]).stem
        name += "-smoke" if options.smoke else ""
        workdir = options.workdir or os.path.join("runs", name)
        from vit_jax import compilation_cache
        from vit_jax.distributed import initialize

        compilation_cache.enable(_print)
        peers = initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            say=_print,
        )
        if peers is None:
            return _train(config, workdir, options, stop, None)
        with peers:
            stop.connect(peers)
            code = _with_peers(config, workdir, options, stop, peers)
        if code:
            # Leaving in order would wait for the others, which wait for this one.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code


def load(options: argparse.Namespace, overrides: list[str]):
    """The config of a call; with --smoke its small form, and what that is."""
    from vit_jax import config as configs

    if not options.smoke:
        return configs.load(options.config, overrides)
    from vit_jax.smoke import smoke

    config, changes = smoke(configs.load(options.config))
    _print("\n  ".join([f"{options.config}, small (--smoke):", *changes]))
    configs.override(config, overrides)
    return config


def _with_peers(config, workdir, options, stop: Stop, peers) -> int:
    """As `_train`; the other processes learn why this one ends."""
    try:
        code = _train(config, workdir, options, stop, peers)
        reason = f"ended with code {code}"
    except Exception as error:
        code, reason = 2, str(error)
        if is_users_mistake(error):
            _say(reason)
        elif gone := peers.verdict():
            from vit_jax.distributed import EXIT_CODE

            return _end(gone, EXIT_CODE)
        else:
            traceback.print_exc()
            code = 1
    if code in (1, 2, 5):
        peers.fail(reason)
    return code


def _train(config, workdir, options, stop: Stop, peers) -> int:
    from vit_jax.devices import open_devices
    from vit_jax.distributed import EXIT_CODE as PEER_GONE
    from vit_jax.distributed import PeerError, PeersRefused
    from vit_jax.host_memory import keep_freed
    from vit_jax.lock import LockLostError
    from vit_jax.outcome import Interrupted, RunError
    from vit_jax.pending import NonFiniteError
    from vit_jax.report.summary import summary
    from vit_jax.train import train

    open_devices()
    keep_freed()
    try:
        result = train(
            config,
            workdir,
            say=_print,
            started=options.started,
            command=options.words,
            allow_config_change=options.allow_config_change,
            stop=stop,
            peers=peers,
        )
    except Interrupted as error:
        return _end(
            f"stopped; step {error.step:,} is saved in {workdir}, and the same command "
            "resumes from there",
            exit_code(error.signal),
        )
    except (NonFiniteError, RunError) as error:
        return _end(str(error), 1)
    except PeersRefused:
        return 2  # the first process says why
    except PeerError as error:
        return _end(str(error), PEER_GONE)
    except LockLostError as error:
        return _end(str(error), 5)
    if peers is None or peers.process_id == 0:
        _print(summary(result))
    return 0


def _end(message: str, code: int) -> int:
    _say(message)
    return code


def _print(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone, the run goes on
        print(line, flush=True)


def _say(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"vit-jax: {message}", file=sys.stderr, flush=True)
