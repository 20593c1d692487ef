"""Cases about learning from runs: weights in cells, and the turns of sessions (S25, S26)."""

from __future__ import annotations

from offramp.conformance.case import case
from offramp.conformance.store_stage import StoreStage
from offramp.errors import StoreError
from offramp.ports.learning import CELLS_KEPT, LAST_TURNS, SESSIONS_KEPT, BeliefCell, EndedTurn, SessionTurns
from offramp.ports.store import Store

PAGE = 1_000
Key = tuple[str, str, int, str]


def _cell(
    name: str = "all", block: int = 7, sla: str = "quick", pipeline: str = "answer", **weights: float
) -> BeliefCell:
    return BeliefCell(pipeline, sla, block, name, weights)


async def _cells(store: Store, after: int = 0) -> dict[Key, dict[str, float]]:
    learned = await store.learned(after, PAGE)
    return {(cell.pipeline, cell.sla, cell.block, cell.name): dict(cell.weights) for cell in learned.cells}


@case("S25")
async def weights_of_cells_add_up_in_every_process(stage: StoreStage) -> None:
    peer = await stage.peer()
    assert await stage.store.learned(0, PAGE) == ([], [], 0)
    await stage.store.learn([_cell(b1=1.0, b2=0.25), _cell("t:question:3", b2=1.0), _cell(block=8, b1=2.0)], [])
    await peer.store.learn([_cell(b2=0.5, b9=1.0), _cell(sla="slow", b1=3.0), _cell(pipeline="other", b1=4.0)], [])
    expected = {
        ("answer", "quick", 7, "all"): {"b1": 1.0, "b2": 0.75, "b9": 1.0},
        ("answer", "quick", 7, "t:question:3"): {"b2": 1.0},
        ("answer", "quick", 8, "all"): {"b1": 2.0},
        ("answer", "slow", 7, "all"): {"b1": 3.0},
        ("other", "quick", 7, "all"): {"b1": 4.0},
    }
    for store in (stage.store, peer.store):
        assert await _cells(store) == expected


@case("S25", "S26")
async def only_what_has_changed_is_read_again_and_nothing_is_left_out(stage: StoreStage) -> None:
    peer = await stage.peer()
    await stage.store.learn([_cell(f"n:{number}", b=1.0) for number in range(5)], [EndedTurn("s", 1.5)])
    first = await peer.store.learned(0, PAGE)
    assert (len(first.cells), len(first.sessions)) == (5, 1)
    assert await peer.store.learned(first.until, PAGE) == ([], [], first.until)
    await stage.store.learn([_cell("n:3", b=1.0)], [])
    await stage.store.learn([_cell("n:1", b=1.0)], [EndedTurn("t", 2.5)])
    seen, until = [], first.until
    while (learned := await peer.store.learned(until, 1)).until > until:
        seen += [*(cell.name for cell in learned.cells), *(each.session for each in learned.sessions)]
        until = learned.until
    assert seen == ["n:3", "n:1", "t"]
    await stage.store.forget("answer", "quick", [7])
    await stage.store.learn([_cell("n:9", b=1.0)], [])
    assert await _cells(peer.store, until) == {("answer", "quick", 7, "n:9"): {"b": 1.0}}


@case("S25")
async def the_cells_that_changed_last_are_kept(stage: StoreStage) -> None:
    await stage.store.learn([_cell("old", b=1.0), _cell(sla="slow", b=1.0)], [])
    await stage.store.learn([_cell("older", b=1.0), _cell("old", b=1.0)], [])
    for start in range(2, CELLS_KEPT + 1, PAGE):
        numbers = range(start, min(start + PAGE, CELLS_KEPT + 1))
        await stage.store.learn([_cell(f"n:{number}", b=1.0) for number in numbers], [])
    kept: set[tuple[str, str]] = set()
    until = 0
    while (learned := await stage.store.learned(until, PAGE)).until > until:
        kept |= {(cell.sla, cell.name) for cell in learned.cells}
        until = learned.until
    assert ("quick", "older") not in kept, "the cell that changed longest ago is the one to go"
    assert {("quick", "old"), ("slow", "all"), ("quick", f"n:{CELLS_KEPT}")} <= kept
    assert len(kept) == CELLS_KEPT + 1


@case("S25")
async def blocks_of_one_pipeline_and_class_are_forgotten(stage: StoreStage) -> None:
    peer = await stage.peer()
    others = [_cell(sla="slow", b=1.0), _cell(pipeline="other", b=1.0), _cell(block=77, b=1.0)]
    await stage.store.learn([_cell(b=1.0), _cell(block=8, b=1.0), *others], [])
    await peer.store.forget("answer", "quick", [7, 8])
    assert await _cells(stage.store) == {
        (each.pipeline, each.sla, each.block, each.name): {"b": 1.0} for each in others
    }


@case("S26")
async def turns_of_a_session_are_counted_in_every_process(stage: StoreStage) -> None:
    peer = await stage.peer()
    assert await stage.store.turns_of("s") is None
    await stage.store.learn([], [EndedTurn("s", 1.5), EndedTurn("other", 9.0)])
    await peer.store.learn([], [EndedTurn("s", 2.5)])
    for store in (stage.store, peer.store):
        assert await store.turns_of("s") == SessionTurns("s", 2, (2.5, 1.5))
    took = [float(number) for number in range(LAST_TURNS + 1)]
    await stage.store.learn([], [EndedTurn("s", each) for each in took])
    expected = SessionTurns("s", 2 + len(took), tuple(reversed(took[1:])))
    assert await peer.store.turns_of("s") == expected
    assert expected in (await peer.store.learned(0, PAGE)).sessions


@case("S26")
async def the_sessions_that_changed_last_are_kept(stage: StoreStage) -> None:
    await stage.store.learn([], [EndedTurn("old", 1.0), EndedTurn("older", 1.0), EndedTurn("old", 1.0)])
    for start in range(2, SESSIONS_KEPT + 1, PAGE):
        numbers = range(start, min(start + PAGE, SESSIONS_KEPT + 1))
        await stage.store.learn([], [EndedTurn(f"s{number}", 1.0) for number in numbers])
    assert await stage.store.turns_of("older") is None
    assert await stage.store.turns_of("old") == SessionTurns("old", 2, (1.0, 1.0))
    assert await stage.store.turns_of("s2") is not None


@case("S25", "S26", needs=("durable", "shared"))
async def what_was_learned_outlives_its_process(stage: StoreStage) -> None:
    await stage.store.learn([_cell(b=1.0)], [EndedTurn("s", 1.0)])
    after = await stage.end()
    assert await _cells(after.store) == {("answer", "quick", 7, "all"): {"b": 1.0}}
    assert await after.store.turns_of("s") == SessionTurns("s", 1, (1.0,))


@case("S14")
async def a_closed_store_learns_nothing(stage: StoreStage) -> None:
    await stage.store.close()
    try:
        await stage.store.learn([_cell(b=1.0)], [])
    except StoreError:
        return
    raise AssertionError("a closed store acknowledged what it was to learn")
