"""The scenarios of `scripts/chaos.py`, one file each."""

from . import (
    bad_data,
    damage,
    diskfull,
    elastic,
    kill9,
    nan_steps,
    peer_death,
    race,
    soak,
    stuck,
    term,
)
from .core import Scenario

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        kill9.SCENARIO,
        term.SCENARIO,
        damage.FLIP,
        damage.TRUNCATE,
        race.SCENARIO,
        diskfull.SCENARIO,
        nan_steps.SCENARIO,
        stuck.SCENARIO,
        peer_death.SCENARIO,
        elastic.SCENARIO,
        soak.SCENARIO,
        bad_data.SCENARIO,
    )
}
