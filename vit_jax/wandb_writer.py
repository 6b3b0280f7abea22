"""Metrics to Weights & Biases: a writer that is made, and written to, on a thread.

It has the methods of clu's `MetricWriter`. The key comes from the environment or the
user's netrc; nobody is asked for it. ``wandb.json`` keeps the id, so that a run that is
resumed goes on in the same place.
"""

import contextlib
import importlib.util
import json
import math
import netrc
import os
import secrets
import tempfile
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vit_jax import storage
from vit_jax.writers import Writer

NAME = "wandb.json"
SERVICE = "https://api.wandb.ai"
_NO_KEY_NEEDED = ("offline", "dryrun", "disabled")


def unavailable() -> str:
    """Why nothing can be written, or ""."""
    if importlib.util.find_spec("wandb") is None:
        return "wandb is not installed; run: pip install 'vit-jax[wandb]'"
    if os.environ.get("WANDB_MODE", "") in _NO_KEY_NEEDED or _has_key():
        return ""
    return "no key; set WANDB_API_KEY or WANDB_MODE=offline, or run: wandb login"


def _has_key() -> bool:
    """Without one wandb would ask for it on the terminal, in the midst of a run."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL") or SERVICE).hostname
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        file = os.environ.get("NETRC")
        return netrc.netrc(file).authenticators(host or "") is not None
    return False


def run_id(workdir: str, project: str) -> str:
    """The id of a work directory's run in a project; a new one is kept there."""
    path = storage.absolute(workdir) / NAME
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        saved = json.loads(path.read_text())
        if saved["project"] == project and str(saved["id"]).isalnum():
            return str(saved["id"])
    new = secrets.token_hex(5)
    storage.write_text(path, json.dumps({"project": project, "id": new}))
    return new


class WandbWriter(Writer):
    """Writes to a run of Weights & Biases, made or resumed.

    Rows are placed by ``step`` and not by W&B's own count of calls, which could not go
    back to a checkpoint.

    Args:
      workdir: of the run; the local files go to its ``wandb/``, or to a temporary
        folder where it is in a bucket.
      project: of W&B.
      config: of the run, as JSON.
      say: gets the line that says where the run is to be seen.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        project: str,
        config: Mapping[str, Any],
        say: Callable[[str], Any] = print,
    ) -> None:
        import wandb

        place = os.fspath(workdir)
        local = tempfile.mkdtemp(prefix="wandb-")
        if not storage.is_bucket(place):
            os.rmdir(local)
            local = os.fspath(Path(place).expanduser().absolute())
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            id=run_id(place, project),
            resume="allow",
            name=os.path.basename(place.rstrip("/")),
            dir=local,
            config=dict(config),
            allow_val_change=True,  # what a resumed run may change
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True
            ),
        )
        self._run.define_metric("*", step_metric="step")
        offline = self._run.settings.mode in _NO_KEY_NEEDED or not self._run.url
        seen = f"wandb sync {Path(self._run.dir).parent}" if offline else self._run.url
        say(f"W&B: {seen}")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        # W&B draws no NaN: a gap shows it as well.
        numbers = {name: float(value) for name, value in scalars.items()}
        self._log(step, {n: v for n, v in numbers.items() if math.isfinite(v)})

    def write_summaries(self, step: int, values: Any, metadata: Any = None) -> None:
        """TensorBoard's own protocol means nothing to W&B."""

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        drawn = {
            name: [self._wandb.Image(one) for one in batch]
            for name, batch in images.items()
        }
        self._log(step, drawn)

    def write_videos(self, step: int, videos: Mapping[str, Any]) -> None:
        """A run draws none."""

    def write_audios(self, step: int, audios: Any, *, sample_rate: int) -> None:
        """A run plays none."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        table = {}
        for name, text in texts.items():
            table[name] = self._wandb.Table(columns=["text"], data=[[text]])
        self._log(step, table)

    def write_histograms(
        self,
        step: int,
        arrays: Mapping[str, Any],
        num_buckets: Mapping[str, int] | None = None,
    ) -> None:
        bins = num_buckets or {}
        self._log(
            step,
            {
                name: self._wandb.Histogram(array, num_bins=bins.get(name) or 64)
                for name, array in arrays.items()
            },
        )

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._run.config.update(dict(hparams), allow_val_change=True)

    def close(self) -> None:
        self._run.finish()

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if values:
            self._run.log({"step": int(step), **values})
