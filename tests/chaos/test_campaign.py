"""A short kill campaign, with one seed that stays and one that does not; `make chaos` is the long one."""

from __future__ import annotations

import random

import pytest

from tests.chaos.campaign import Campaign

KILLS = 10
SEEDS = [7, random.SystemRandom().randrange(1 << 32)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", ["always the same", "never the same"])
async def test_whatever_is_killed_nothing_is_lost_and_no_finished_step_repeated(tmp_path, which):
    seed = SEEDS[which == "never the same"]
    campaign = Campaign(tmp_path, seed, KILLS)
    found = await campaign.run()
    assert not found, "\n".join([*found[:20], campaign.summary(), f"again: make chaos KILLS={KILLS} SEED={seed}"])
    assert len(campaign.seen) >= KILLS
