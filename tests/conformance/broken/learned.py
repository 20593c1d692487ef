"""Stores with one bug each in what is learned of runs."""

from __future__ import annotations

from offramp.stores.memory import MemoryStore
from tests.conformance.broken.marks import breaks


@breaks("S25")
class LastWeightCounts(MemoryStore):
    """Weights of a cell take the place of those before."""

    async def learn(self, cells, turns):
        for cell in cells:
            self._learned._cells.get((cell.pipeline, cell.sla), {}).pop((cell.block, cell.name), None)
        await super().learn(cells, turns)


@breaks("S25")
class OneBeliefForAllClasses(MemoryStore):
    """Classes share their cells."""

    async def learn(self, cells, turns):
        await super().learn([cell._replace(sla="quick") for cell in cells], turns)


@breaks("S25")
class OneBlock(MemoryStore):
    """Blocks are not kept apart."""

    async def learn(self, cells, turns):
        await super().learn([cell._replace(block=7) for cell in cells], turns)


@breaks("S25")
class EndlessBeliefs(MemoryStore):
    """No cell makes room for others."""

    async def learn(self, cells, turns):
        for cell in cells:
            group = self._learned._cells.setdefault((cell.pipeline, cell.sla), {})
            kept = dict(group)
            await super().learn([cell], [])
            group.update({key: value for key, value in kept.items() if key not in group})
        await super().learn([], turns)


@breaks("S25")
class ForgetsEveryClass(MemoryStore):
    """The blocks of other classes go, too."""

    async def forget(self, pipeline, sla, blocks):
        for each, other in list(self._learned._cells):
            await super().forget(each, other, blocks)


@breaks("S25")
class CountsAnewOnForgetting(MemoryStore):
    """The numbers of removed changes are given again."""

    async def forget(self, pipeline, sla, blocks):
        await super().forget(pipeline, sla, blocks)
        groups = self._learned._cells.values()
        self._learned._newest = max((number for group in groups for number, _ in group.values()), default=0)


@breaks("S25")
class SkipsWhatDoesNotFit(MemoryStore):
    """What a read leaves out counts as read."""

    async def learned(self, after, limit):
        return (await super().learned(after, limit))._replace(until=self._learned._newest)


@breaks("S26")
class OldestTurnsAreKept(MemoryStore):
    """The first turns of a session are kept, not its last ones."""

    async def learn(self, cells, turns):
        before = {turn.session: await self.turns_of(turn.session) for turn in turns}
        await super().learn(cells, turns)
        for session, known in before.items():
            if known is not None:
                number, now = self._learned._sessions[session]
                self._learned._sessions[session] = number, now._replace(last_s=known.last_s)


@breaks("S26")
class SilentAboutSessions(MemoryStore):
    """A session that has changed is not among the changes."""

    async def learned(self, after, limit):
        return (await super().learned(after, limit))._replace(sessions=[])


@breaks("S26")
class EndlessSessions(MemoryStore):
    """No session makes room for others."""

    async def learn(self, cells, turns):
        await super().learn(cells, [])
        for turn in turns:
            kept = dict(self._learned._sessions)
            await super().learn([], [turn])
            self._learned._sessions.update({key: kept[key] for key in kept.keys() - self._learned._sessions.keys()})
