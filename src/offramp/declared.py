"""Declared steps and pipelines, as the decorators of an app return them: called like the functions they stand for."""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from offramp.core.advisers import Adviser, of_input
from offramp.core.spec import PipelineSpec, StepSpec, as_awaitable
from offramp.errors import DeclarationError
from offramp.execution.body import Body
from offramp.execution.context import current

Features = Mapping[str, float | str]
P = ParamSpec("P")
R = TypeVar("R")
G = TypeVar("G", bound=Callable[..., Features | Awaitable[Features]])
_OUTSIDE = (
    "pipeline {0!r} is called outside a run: without journal, budget, events and trace. Start a run with `await "
    "gateway.run({0!r}, ...)`, or with `runtime.start` in `async with app.local() as runtime`; the plain function is "
    "its `fn`"
)


class Step(Generic[P, R]):
    """A declared step; calling it gives an awaitable. `fn` is the plain function."""

    def __init__(self, fn: Callable[P, R] | Callable[P, Coroutine[Any, Any, R]], spec: StepSpec) -> None:
        self._fn = fn
        self.spec = spec
        functools.update_wrapper(self, fn)

    @property
    def fn(self) -> Callable[P, R] | Callable[P, Coroutine[Any, Any, R]]:
        """The plain function."""
        return self._fn

    @fn.setter
    def fn(self, _function: object) -> NoReturn:
        """Refused: a run executes what was declared.

        Raises:
            AttributeError: always; the message names the way to fake a step.
        """
        raise AttributeError(
            f"step {self.spec.name!r}: fn cannot be replaced, because runs execute the declared function; in a test, "
            f"open testing.runtime(app, fakes={{{self.spec.name!r}: function_or_value}})"
        )

    @fn.deleter
    def fn(self) -> None:
        """Refused like the setter; `mock.patch` deletes what it could not set, and shows that error."""
        self.fn = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """The step's result: from the journal, or by executing it. Outside a run, the function just runs.

        A step called inside another step is part of that step and not journaled by itself.
        """
        ambient = current.get()
        if not isinstance(ambient, Body):
            return self._plain(args, kwargs)
        given = self.spec.signature.encode_call(args, kwargs)
        # The key is taken at the call, not when the coroutine first runs, so that its occurrence does not depend on
        # how tasks are scheduled.
        scope = ambient.scope
        key = scope.replay.journal.key(self.spec.name, given.key, given.earlier)
        return scope.step(self.spec.call(key, given.encoded, given.values))

    async def _plain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        function: Callable[..., Any] = self.spec.function
        kwargs = self.spec.signature.with_defaults(args, kwargs)
        if self.spec.is_async:
            result: R = await as_awaitable(function(*args, **kwargs))
            return result
        if self.spec.policy.lane == "loop":
            return function(*args, **kwargs)  # type: ignore[no-any-return]
        return await asyncio.to_thread(function, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<step {self.spec.name!r} of {self._fn.__module__}>"


class Pipeline(Generic[P, R]):
    """A declared pipeline; calling it inside a run runs it as part of that run. `fn` is the plain function.

    `describes` is the function that `features` declared.
    """

    def __init__(self, fn: Callable[P, Coroutine[Any, Any, R]], spec: PipelineSpec) -> None:
        self._fn = fn
        self.spec = spec
        self.describes: Adviser | None = None
        self._has_warned = False
        functools.update_wrapper(self, fn)

    @property
    def fn(self) -> Callable[P, Coroutine[Any, Any, R]]:
        """The plain function."""
        return self._fn

    @fn.setter
    def fn(self, _function: object) -> NoReturn:
        """Refused: a run executes what was declared.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"pipeline {self.spec.name!r}: fn cannot be replaced, because runs execute the declared function; in a "
            "test, replace its steps: testing.runtime(app, fakes={...})"
        )

    @fn.deleter
    def fn(self) -> None:
        """Refused like the setter."""
        self.fn = None

    def features(self, fn: G, /) -> G:
        """Describe inputs to the router by what only your code knows of them: a decorator.

        Args:
            fn: a plain or async function that is called with the pipeline's arguments by name and returns a dict of at
                most 8 features: a name and a number or a text. Runs with like features are expected to take as long. It
                has 1 s; one that raises, is late or returns something else is passed over.

        Raises:
            DeclarationError: it does not take the pipeline's arguments, or there is one already.
        """
        if self.describes is not None:
            raise DeclarationError(f"pipeline {self.spec.name!r} has a function of features already")
        self.describes = of_input(fn, self.spec.name, self.spec.signature.names)
        return fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the function; its steps join the run that is executing, if one is. Outside a run it warns once."""
        if current.get() is None and not self._has_warned:
            self._has_warned = True
            warnings.warn(_OUTSIDE.format(self.spec.name), RuntimeWarning, stacklevel=2)
        return self._fn(*args, **self.spec.signature.with_defaults(args, kwargs))

    def __repr__(self) -> str:
        return f"<pipeline {self.spec.name!r} of {self._fn.__module__}>"
