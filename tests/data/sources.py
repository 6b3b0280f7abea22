"""Sources that tests of the pipeline read, in this process or in workers."""

import os
import signal
import time

import numpy as np

from vit_jax.data.errors import BadExampleError


class Numbers:
    """Row i is an image filled with i, of label i; some are damaged."""

    def __init__(self, size, bad=(), shape=(4, 4, 3)):
        self.size, self.bad, self.shape = size, frozenset(bad), shape

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        assert 0 <= index < self.size
        if index in self.bad:
            raise BadExampleError(f"{self.where(index)}: is garbled")
        return {"image": np.full(self.shape, index, np.uint8), "label": index}

    def where(self, index):
        return f"numbers, record {index}"


class Mortal(Numbers):
    """Kills the process that reads record 13."""

    def __getitem__(self, index):
        if index == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class Slow(Numbers):
    """Blocks on record 13 for longer than any test."""

    def __getitem__(self, index):
        if index == 13:
            time.sleep(600)
        return super().__getitem__(index)


class Flaky(Numbers):
    """Storage that fails as often as asked before it works."""

    failures = 0
    error = OSError("connection reset")

    def __getitem__(self, index):
        if self.failures:
            self.failures -= 1
            raise self.error
        return super().__getitem__(index)


class Stream:
    """Numbers without random access; the order of an epoch is turned by its number."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def where(self, index):
        return f"stream, record {index}"

    def stream(self, start, *, seed, shuffle):
        numbers = Numbers(self.size)
        while True:
            epoch, offset = divmod(start, self.size)
            index = (offset + epoch * shuffle) % self.size
            yield index, numbers[index]
            start += 1


def fails_on_three(image, rng):
    """A mistake of the program, not of the data."""
    if image[0, 0, 0] == 3:
        raise ZeroDivisionError
    return image


def make_failing():
    """For `Deferred`: `fails_on_three`."""
    return fails_on_three


def make_failing_strangely():
    """For `Deferred`: what it raises cannot be sent to another process."""

    class Strange(Exception):
        pass

    def load(image, rng):
        raise Strange("it is so")

    return load


def augment(image, rng):
    """Keeps the example's number in channel 0 and puts noise into the others."""
    noise = rng.integers(0, 256, image.shape, np.uint8)
    noise[..., 0] = image[..., 0]
    return noise


def make_augment(*, views=0):
    """For `Deferred`: `augment`, or two of it with an axis of their own."""
    if not views:
        return augment
    return lambda image, rng: np.stack([augment(image, rng) for _ in range(views)])
