"""Two and four processes on the loopback address train as one."""

import itertools

import pytest

from tests.cluster import runs

pytestmark = pytest.mark.slow  # it starts three processes, or five


@pytest.fixture(scope="module", params=[2, 4], ids=str)
def trained(request, tmp_path_factory):
    """Processes of a device each, and one of as many devices."""
    number = request.param
    folder = tmp_path_factory.mktemp(f"processes-{number}")
    single, several = folder / "single" / "run", folder / "several" / "run"
    codes, done = runs.finish([runs.start(runs.command(single), devices=number)])
    assert codes == [0], done
    address = f"--coordinator=127.0.0.1:{runs.free_port()}"
    common = [*runs.command(several), address, f"--num_processes={number}"]
    codes, done = runs.finish(
        [runs.start([*common, f"--process_id={rank}"]) for rank in range(number)]
    )
    assert codes == [0] * number, done
    assert f"process 0 of {number}" in done[0][0]
    return number, single, several


def test_numbers_are_those_of_one(trained):
    _, single, several = trained
    ours, theirs = runs.numbers(several), runs.numbers(single)
    assert [one[:2] for one in ours] == [one[:2] for one in theirs]
    # Numbers are added in another order between processes than within one.
    for (step, name, value), (_, _, expected) in zip(ours, theirs, strict=True):
        exact = name in ("data/example_ids", "val/examples")
        close = pytest.approx(expected, rel=0 if exact else 1e-5, abs=0)
        assert value == close, (step, name)


def test_digests_are_those_that_one_computes(trained):
    _, single, several = trained
    ours, theirs = runs.digests(several), runs.digests(single)
    assert set(ours) == set(theirs) and len(ours) > 20
    # What all computed of their parts is what one computes of the files.
    runs.check_files(several)


def test_each_reads_its_own_rows(trained):
    number, single, several = trained
    (whole,), (evaluated,) = (list(part.values()) for part in runs.read(single))
    assert sorted(position for _, position in whole) == list(
        range(runs.STEPS * runs.BATCH)
    )
    training, evaluation = runs.read(several)
    assert sorted(training) == list(range(number))
    each = runs.BATCH // number
    for rank, rows in training.items():
        mine = [row for row in whole if row[1] % runs.BATCH // each == rank]
        assert rows == mine and len(mine) == runs.STEPS * each
    assert sorted(itertools.chain(*evaluation.values())) == evaluated
    assert {len(rows) for rows in evaluation.values()} == {len(evaluated) // number}


def test_all_write_the_checkpoint(trained):
    number, _, several = trained
    assert runs.writers(several) == set(range(number))
