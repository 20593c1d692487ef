"""A short kill campaign against an app with resources in every run of the tests; the long one is in `make chaos`."""

from __future__ import annotations

import pytest

from tests.chaos.limits import LimitsCampaign

KILLS = 8


@pytest.mark.timeout(400)
async def test_whatever_is_killed_no_permit_leaks_no_window_is_exceeded_and_no_run_is_lost(tmp_path, request):
    seed = request.config.getoption("randomly_seed", 7)
    campaign = LimitsCampaign(tmp_path, seed, KILLS, patient=True)
    problems = await campaign.run()
    again = f"again: pytest -p randomly --randomly-seed={seed}"
    assert not problems, "\n".join([*problems[:20], campaign.summary(), again])
    assert campaign.stats["served"] > KILLS
    assert len(campaign.seen) >= KILLS
