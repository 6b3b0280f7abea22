"""From a call to a folder: plans, renders, checks, and only then writes."""

import dataclasses
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax import config as configs
from vit_jax import config_file
from vit_jax.launch import checks, code, submit, values
from vit_jax.launch.job import Job, LaunchError, Rendered
from vit_jax.launch.targets import TARGETS, chosen
from vit_jax.plan.topology import Topology

Say = Callable[[str], object]
# Not "--nodes 4", in two words: what is read back would not see it.
_OPTION = re.compile(r"--[a-z][\w-]*(=.*)?")


@dataclasses.dataclass(frozen=True)
class Call:
    """What was asked for, as on the command line.

    Args:
      target: of `TARGETS`.
      config: FILE[:ARG].
      overrides: ``--config.KEY=VALUE``.
      workdir: where the run is to live.
      topology: from the table.
      name: of the job; None: the config's.
      output: folder to write; None: ``launch/NAME``.
      code: as `code.resolve` takes it.
      env: ``NAME=VALUE``.
      secrets: names.
      options: of the target; None where not given.
      extra: arguments for the target's tool.
      spot: capacity that may be taken away.
      retries: after failures.
      hosts: that the caller counts on.
      chips: likewise.
      force: also where the planner says that it does not fit.
      submit: whether to hand it over.
    """

    target: str
    config: str
    overrides: Sequence[str]
    workdir: str
    topology: Topology
    name: str | None = None
    output: str | None = None
    code: str = "wheel"
    env: Sequence[str] = ()
    secrets: Sequence[str] = ()
    options: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    extra: Sequence[str] = ()
    spot: bool = False
    retries: int = 3
    hosts: int | None = None
    chips: int | None = None
    force: bool = False
    submit: bool = False


@dataclasses.dataclass(frozen=True)
class Written:
    """What there is to look at, and to do next.

    Args:
      job: as it was rendered.
      rendered: its files, which are in ``job.output``.
      plan: a line of the planner.
      checked: what was checked by which tool.
      unchecked: what was not, and why.
      notes: that the reader should know.
    """

    job: Job
    rendered: Rendered
    plan: str
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    notes: tuple[str, ...]


def write(call: Call) -> Written:
    """Renders a call into its folder; nothing is written where a check fails.

    Raises:
      LaunchError: it cannot be launched so.
      ConfigError: the config cannot train there.
    """
    target = TARGETS[call.target]
    options = chosen(call.target, call.options)
    if call.extra:
        options["extra"] = _extra(call)
    if call.retries < 0:
        raise LaunchError(f"--retries={call.retries} must not be negative")
    checks.expect(call.topology, hosts=call.hosts, chips=call.chips)
    name = values.name(call.name, call.config)
    env, secrets = values.variables(call.env), values.secrets(call.secrets)
    workdir = values.workdir(call.workdir, shared=target.shared)
    config = configs.load(call.config, call.overrides)
    line = plan_line(config, call.topology, force=call.force)
    with tempfile.TemporaryDirectory(prefix="vit-jax-launch-") as temporary:
        folder = pathlib.Path(temporary)
        path, colon, argument = call.config.partition(":")
        file = own_config(call, folder)
        known = "" if file else f"configs/{config_file.find(path).name}"
        job = Job(
            name=name,
            config=f"{known}{colon}{argument}",
            config_file=file,
            overrides=tuple(call.overrides),
            workdir=workdir,
            topology=call.topology,
            code=code.resolve(call.code, folder),
            output=pathlib.Path(call.output or f"launch/{name}").absolute(),
            env=env,
            secrets=secrets,
            spot=call.spot,
            retries=call.retries,
            options=options,
        )
        if call.submit:
            submit.ready(job, target)
        rendered = target.render(job)
        checks.agree(job, rendered)
        ready = folder / "ready"
        fill(ready, job, rendered)
        checked, unchecked = checks.by_tools(rendered, ready)
        if call.submit:
            submit.dry_run(job, rendered, ready)
        _keep(ready, job.output)
    return Written(
        job,
        rendered,
        line,
        tuple(checked),
        tuple(unchecked),
        notes(config, env=env, shared=target.shared),
    )


def _extra(call: Call) -> str:
    what = TARGETS[call.target].extra
    for word in call.extra:
        if not what:
            raise LaunchError(
                f"--extra={word}: {call.target} has no command to give it to; edit "
                "what is rendered"
            )
        if not _OPTION.fullmatch(word):
            raise LaunchError(f"--extra={word!r} is not --OPTION=VALUE of {what}")
    return "\n".join(call.extra)


def plan_line(config: Any, topology: Topology, *, force: bool) -> str:
    """Whether it fits, counted by shapes as `vit-jax plan --no_compile` does.

    Raises:
      LaunchError: it does not.
      ConfigError: the config cannot train there.
    """
    from vit_jax.plan import plan as planning

    found = planning.plan(config, topology, compile=False)
    memory = (
        f"{found.memory_gib:.2f} of {found.limit_gib:g} GiB a chip, counted by shapes"
    )
    low, high = found.step_seconds
    if found.fits:
        return f"fits: {memory}; a step takes {low:.2g} to {high:.2g} s, predicted"
    if force:
        return f"does not fit ({memory}); rendered all the same (--force)"
    raise LaunchError(
        f"does not fit {topology}: {memory}; vit-jax plan --search shows flags that do "
        "(--force renders all the same)"
    )


def own_config(call: Call, folder: pathlib.Path) -> pathlib.Path | None:
    """The user's own config file, copied; None where the package has the very same.

    Raises:
      LaunchError: it needs files beside it, which are not shipped.
    """
    path, colon, argument = call.config.partition(":")
    file = config_file.find(path)
    shipped = config_file.recipes().get(file.stem)
    if shipped is not None and shipped.read_bytes() == file.read_bytes():
        return None
    alone = folder / "alone" / "config.py"
    alone.parent.mkdir()
    shutil.copyfile(file, alone)
    try:
        configs.load(f"{alone}{colon}{argument}", call.overrides)
    except configs.ConfigError as error:
        raise LaunchError(
            f"--config={path} is shipped as one file, and cannot be read without "
            f"those beside it ({error}); let it import from the package's configs only"
        ) from error
    return alone


def fill(folder: pathlib.Path, job: Job, rendered: Rendered) -> None:
    """Writes what is rendered, and what is shipped with it."""
    folder.mkdir()
    for name, text in rendered.files.items():
        (folder / name).write_text(text)
    if rendered.ships:
        for name, path in job.files.items():
            shutil.copyfile(path, folder / name)


def _keep(ready: pathlib.Path, output: pathlib.Path) -> None:
    """Moves the files into the folder, each whole; others there stay (logs)."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for file in sorted(ready.iterdir()):
            shutil.copyfile(file, output / f"{file.name}.new")
            (output / f"{file.name}.new").replace(output / file.name)
    except OSError as error:
        raise LaunchError(f"--output={output}: {error.strerror}") from error


def notes(config: Any, *, env: Mapping[str, str], shared: bool) -> tuple[str, ...]:
    """What must be there, and cannot be checked from here.

    Args:
      config: of the run.
      env: its variables.
      shared: whether a path of this machine may be one of the hosts'.
    """
    if shared:
        return ()
    said = []
    data, place = config.data.name, config.data.dir or env.get("TFDS_DATA_DIR", "")
    if ":" in data:
        inside = data.startswith(("synthetic:", "patterns:")) or data == "arrays:digits"
        if not inside and "gs://" not in data:
            said.append(f"data {data} must be there, on every host")
    elif not place:
        said.append(
            f"data set {data} is looked for in each host's home; where it is in a "
            "bucket: --config.data.dir=gs://BUCKET/DIR"
        )
    elif not place.startswith("gs://"):
        said.append(f"data directory {place} must be there, on every host")
    weights = config.model.init_from
    if weights and not weights.startswith("gs://"):
        said.append(f"model.init_from {weights} must be there, on every host")
    return tuple(said)
