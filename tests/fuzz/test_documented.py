"""Whatever is asked of a gateway, it answers as its OpenAPI document says. `make fuzz` asks for longer."""

from __future__ import annotations

from tests.fuzz.documented import fuzz
from tests.fuzz.serving import KEY, flaws_in_log

SEED = 1
EXAMPLES = 10


def test_every_answer_is_documented(gateway):
    code, report = fuzz(gateway.url, KEY, gateway.home, seed=SEED, examples=EXAMPLES, timeout_s=100)
    assert code == 0, report
    assert flaws_in_log(gateway) == []
