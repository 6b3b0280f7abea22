"""The rows of a global batch: loaded by threads or processes, laid out on the mesh."""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from vit_jax.data.errors import BadExampleError, DataError
from vit_jax.data.order import (
    draws_per_step,
    epoch_order,
    ids_at,
    last_epoch,
    replacement_rng,
    step_positions,
)
from vit_jax.data.rows import BadExample, Label, Row, RowLoader, Transform, stack_labels
from vit_jax.data.threads import Threads, available_cores
from vit_jax.data.workers import Workers

_TRIES = 100  # others in the place of one damaged example

Columns = Mapping[str, Callable[[np.ndarray], np.ndarray]]


@runtime_checkable
class Source(Protocol):
    """Random access to examples: ``{"image": bytes or uint8 array, "label": int}``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def where(self, index: int) -> str:
        """File and record of an example, for messages."""
        ...


@runtime_checkable
class OrderedSource(Source, Protocol):
    """One that decides itself which ids a run takes."""

    def order(self, positions: np.ndarray, *, seed: int, shuffle: bool) -> np.ndarray:
        """Ids of the examples at positions of the run."""
        ...


@runtime_checkable
class StreamSource(Protocol):
    """Examples one after the other, without end."""

    def __len__(self) -> int: ...

    def where(self, index: int) -> str: ...

    def stream(
        self, start: int, *, seed: int, shuffle: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """``(id, example)`` from position ``start`` of the run on."""
        ...


def local_ranges(
    sharding: jax.sharding.Sharding, batch_size: int
) -> list[tuple[int, int]]:
    """Ranges of global rows that this process's devices hold, each once, in order."""
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return sorted({index[0].indices(batch_size)[:2] for index in indices if index})


class Loader:
    """Loads the rows of a global batch and lays them out on the mesh.

    What a row holds depends on the source, the seed and its position in the run alone,
    whatever loads it: threads, processes, and how many.

    Args:
      source: the examples.
      load: ``(image, rng) -> uint8 [H, W, C]``, or any other shape: decoding and
        augmentation. For workers it must be picklable, see `Deferred`.
      sharding: of the batch axis over the mesh.
      batch_size: global rows.
      seed: of the run.
      threads: 0 means one a core.
      workers: processes that load instead of the threads; 0 means none.
      repeats: rows of one example in a batch, see `example_ids`.
      bad: a damaged example in training is an error ("stop"), or another, drawn by
        (seed, position), takes its place ("skip"); in evaluation "skip" masks it out.
      max_bad: more damaged examples than these are an error all the same.
      batches: alive at a time; their memory is used again.
      columns: further columns of a training batch, from the ids of its rows (int64, of
        the examples that are really in it): ``{"id": lambda ids: ids}``.
    """

    def __init__(
        self,
        source: Source | StreamSource,
        load: Transform,
        *,
        sharding: jax.sharding.Sharding,
        batch_size: int,
        seed: int,
        threads: int = 0,
        workers: int = 0,
        repeats: int = 1,
        bad: str = "stop",
        max_bad: int = 100,
        batches: int = 5,
        columns: Columns | None = None,
    ):
        if bad not in ("stop", "skip"):
            raise ValueError(f"bad must be 'stop' or 'skip', got {bad!r} (data.bad)")
        draws_per_step(batch_size, repeats)
        self.source, self.sharding = source, sharding
        # Of one label: () for a class, (M,) where an example has several.
        self.label_shape = getattr(source, "label_shape", ())
        self.batch_size, self.seed, self.repeats = batch_size, seed, repeats
        self.streams = isinstance(source, StreamSource)
        self._columns = dict(columns or {})
        if self.streams and bad == "skip":
            raise DataError(
                "data.bad 'skip' needs random access, which a stream has not; "
                "set it to 'stop', or convert the data set: vit-jax prepare"
            )
        self._skip, self._max_bad = bad == "skip", max_bad
        self._ranges = local_ranges(sharding, batch_size)
        self._loading = threading.Lock()
        self._noting = threading.Lock()
        self._known_bad: set[int] = set()
        self._new_bad: list[BadExample] = []
        self._rows = RowLoader(source, load, seed)
        self._pool: Threads | Workers
        if workers:
            self._pool = Workers(self._rows, workers=workers)
        else:
            threads = threads or available_cores()
            self._pool = Threads(self._rows, threads=threads, batches=batches)

    def ids(self, step: int, *, shuffle: bool) -> np.ndarray:
        """Ids of the examples of a training step, before any is replaced."""
        positions = step_positions(step, self.batch_size, self.repeats)
        return np.tile(self.ids_at(positions, shuffle=shuffle), self.repeats)

    def ids_at(self, positions: np.ndarray, *, shuffle: bool) -> np.ndarray:
        """Ids of the examples at positions of the run, in the source's own order."""
        if isinstance(self.source, OrderedSource):
            return self.source.order(positions, seed=self.seed, shuffle=shuffle)
        return ids_at(
            positions, seed=self.seed, num_examples=len(self.source), shuffle=shuffle
        )

    def batch(
        self,
        ids: Sequence[int] | np.ndarray,
        first_position: int,
        *,
        examples: Sequence[dict[str, Any]] | None = None,
        stopped: threading.Event | None = None,
    ) -> dict[str, jax.Array]:
        """Global ``image`` uint8 ``[B, H, W, C]`` and ``label`` int32 ``[B]``.

        Of a source whose examples have several labels, ``label`` is ``[B, M]``.

        Args:
          ids: of the examples, one a row.
          first_position: of the first row in the run.
          examples: those of the rows, where they are read already.
          stopped: set where the batch is not wanted any more.

        Raises:
          BadExampleError: an example is damaged, and ``bad`` is "stop".
          DataError: more than ``max_bad`` are, or storage fails.
        """
        here = np.concatenate([ids[slice(*rows)] for rows in self._ranges])
        here = here.astype(np.int64)
        pixels, labels, _ = self._load(
            ids, first_position, examples, stopped, taken=here
        )
        more = {name: column(here) for name, column in self._columns.items()}
        return self._place(image=pixels, label=labels, **more)

    def masked_batch(
        self,
        ids: Sequence[int] | np.ndarray,
        real: np.ndarray,
        *,
        first_position: int = 0,
        examples: Sequence[dict[str, Any]] | None = None,
        stopped: threading.Event | None = None,
    ) -> dict[str, jax.Array]:
        """As `batch`, with ``mask``: rows that are ``real`` and not damaged.

        In an evaluation another example would count twice; a damaged one counts not at
        all.
        """
        pixels, labels, good = self._load(
            ids, first_position, examples, stopped, replace=False
        )
        here = np.concatenate([real[slice(*rows)] for rows in self._ranges])
        return self._place(image=pixels, label=labels, mask=here & good)

    def _load(
        self,
        ids: Sequence[int] | np.ndarray,
        first_position: int,
        examples: Sequence[dict[str, Any]] | None,
        stopped: threading.Event | None,
        replace: bool = True,
        taken: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, labels and whether they are good, of the rows of this process.

        Ids of what takes the place of damaged examples are written into ``taken``.
        """
        rows = [
            Row(
                int(ids[row]),
                first_position + row,
                None if examples is None else examples[row],
            )
            for start, stop in self._ranges
            for row in range(start, stop)
        ]
        with self._loading:
            out, labels, bad = self._pool.load(rows, stopped or threading.Event())
        labels = stack_labels(labels, self.label_shape)
        good = np.ones(len(rows), bool)
        for number, found in enumerate(bad):
            if found is None:
                continue
            self._note(found)
            good[number] = replace
            if replace or out is None:
                pixels, labels[number], id = self._replacement(rows[number])
                if taken is not None:
                    taken[number] = id
                if out is None:  # only now is it known how large an image is
                    out = np.zeros((len(rows), *pixels.shape), np.uint8)
                out[number] = pixels
            else:
                out[number] = 0  # not what the memory held before
        assert out is not None  # there is a row, good or replaced
        return out, labels, good

    def _note(self, found: BadExample) -> None:
        """Counts a damaged example, once in a run.

        Raises:
          BadExampleError: it is to stop the run.
          DataError: it is one too many.
        """
        if not self._skip:
            raise BadExampleError(
                f"{found} (the same command with --config.data.bad=skip leaves "
                "damaged examples out)"
            )
        with self._noting:
            if found.id in self._known_bad:
                return
            self._known_bad.add(found.id)
            self._new_bad.append(found)
            count = len(self._known_bad)
        if count > self._max_bad:
            raise DataError(
                f"{count} examples are damaged, more than {self._max_bad} "
                f"(data.max_bad, which a resumed run may raise); the last: {found}"
            )

    def _replacement(self, row: Row) -> tuple[np.ndarray, Label, int]:
        """Pixels, label and id of what takes the place of a damaged example."""
        rng = replacement_rng(self.seed, row.position)
        for _ in range(_TRIES):
            drawn = rng.integers(len(self.source), size=1)
            id = int(self.ids_at(drawn, shuffle=False)[0])
            pixels, label, bad = self._rows.row(Row(id, row.position))
            if pixels is not None:
                return pixels, label, id
            if bad is not None:
                self._note(bad)
        raise DataError(
            f"{self._rows.where(row.id)}: damaged, and so are {_TRIES} others drawn "
            "in its place"
        )

    def take_bad(self, before: int | None = None) -> list[BadExample]:
        """The damaged examples found and not taken yet; each once in a run.

        Args:
          before: leaves those that rows from this position of the run on met first,
            which were only loaded ahead.
        """
        with self._noting:
            found, self._new_bad = self._new_bad, []
            if before is None:
                return found
            self._new_bad = [one for one in found if one.position >= before]
        return [one for one in found if one.position < before]

    def know_bad(self, examples: Iterable[BadExample]) -> None:
        """Takes over what the part of the run that is resumed has found."""
        with self._noting:
            self._known_bad |= {one.id for one in examples}

    def _place(self, **columns: np.ndarray) -> dict[str, jax.Array]:
        """Local rows as global arrays, each device its own."""
        offsets, end = {}, 0
        for start, stop in self._ranges:
            offsets[start] = end
            end += stop - start

        def block(column: np.ndarray, index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(self.batch_size)
            return column[offsets[start] : offsets[start] + stop - start]

        return {
            name: jax.make_array_from_callback(
                (self.batch_size, *column.shape[1:]),
                self.sharding,
                functools.partial(block, column),
            )
            for name, column in columns.items()
        }

    def order_ahead(self, step: int) -> None:
        """Draws the next epoch's order in the background, at an epoch's first step."""
        if self.streams or isinstance(self.source, OrderedSource):
            return
        epoch = functools.partial(
            last_epoch,
            batch_size=self.batch_size,
            num_examples=len(self.source),
            repeats=self.repeats,
        )
        now = epoch(step)
        if step == 0 or epoch(step - 1) != now:
            arguments = (self.seed, now + 1, len(self.source))
            threading.Thread(target=epoch_order, args=arguments, daemon=True).start()

    def close(self) -> None:
        """Ends the threads and processes."""
        self._pool.close()
