"""An event loop whose clock jumps to the next timer instead of waiting: a simulated hour takes no time.

Nothing of the machine gets in: no socket is listened to, no thread is begun, no clock is read. What a program hands to
an executor runs at once; its answer comes a little later, as a thread's would. Tasks are told apart by number, not by
where they lie in memory, so the same program takes the same course every time (string hashing set aside: fix
``PYTHONHASHSEED``).

A *process* is a part of the program that can be killed: whatever its tasks ask for from then on is not done any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import selectors
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping
    from concurrent.futures import Executor

_T = TypeVar("_T")

BEGIN_S: Final = 1000.0
"""What the clock of a new loop shows."""
TURN_S: Final = 1e-6
"""What a turn of the loop takes: on no machine is it nothing, and programs rely on that."""
WAIT_S: Final = 1e-3
SPINS: Final = 200_000
"""Turns of the loop without a wait worth the name; a program that takes more does not wait for anything."""


class Killed(BaseException):
    """The process was killed here, as by SIGKILL: nothing that it still meant to do is done."""


class Stuck(RuntimeError):
    """The program waits for what can't happen, or turns without waiting for anything."""


class Process:
    """One life of a program that may be killed at any of its operations."""

    def __init__(self, on_death: Callable[[str], None] = lambda _where: None) -> None:
        """``on_death`` is told at which operation an armed process died."""
        self._on_death = on_death
        self._left: int | None = None
        self._is_enough: Callable[[str], bool] | None = None
        self.dead = False
        self.operations = 0

    def arm(self, operations: int) -> None:
        """Let the process die at the ``operations``-th operation from now."""
        self._left = operations

    def disarm(self) -> None:
        """Let it live."""
        self._left = None

    def watch(self, is_enough: Callable[[str], bool]) -> None:
        """Have ``is_enough`` asked at each operation from now until it says yes, by its name: nothing is done."""
        self._is_enough = is_enough

    def operation(self, name: str) -> None:
        """Note that the process is about to do something, or has just done it.

        Raises:
            Killed: it is dead, or dies here.
        """
        if self.dead:
            raise Killed
        self.operations += 1
        if self._is_enough is not None and self._is_enough(name):
            self._is_enough = None
        if self._left is None:
            return
        self._left -= 1
        if self._left <= 0:
            self.dead = True
            self._on_death(name)
            raise Killed


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
"""The process that the running task belongs to."""


def operation(name: str) -> None:
    """Note an operation of the running process, where there is one."""
    process = PROCESS.get()
    if process is not None:
        process.operation(name)


def _raise_stuck(message: str) -> None:
    raise Stuck(message)


class _Jumping(selectors.BaseSelector):
    """Never anything to read: time passes instead."""

    def __init__(self) -> None:
        self.now_s = BEGIN_S
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._spins = 0
        self.on_stuck: Callable[[str], None] = _raise_stuck

    def register(self, fileobj: Any, events: int, data: object = None) -> selectors.SelectorKey:  # noqa: ANN401
        number = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
        key = self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:  # noqa: ANN401
        return self._keys.pop(fileobj if isinstance(fileobj, int) else int(fileobj.fileno()))

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("every task waits, and no timer is set: nothing would ever happen again")
        self.now_s += max(timeout, TURN_S)
        if timeout > WAIT_S:
            self._spins = 0
            return []
        self._spins += 1
        if self._spins > SPINS:
            self._spins = 0
            self.now_s += 1.0  # so that it can be ended all the same
            self.on_stuck(f"the program turned {SPINS} times without waiting for anything")
        return []


class _NumberedTask(asyncio.Task[_T]):
    """A task that a set keeps at a place which does not depend on the machine's memory."""

    def __init__(self, coro: Any, *, number: int, **about: Any) -> None:  # noqa: ANN401 as asyncio has it
        self._number = number
        super().__init__(coro, **about)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; ``latency`` says how long each answer of an executor takes."""

    def __init__(self, latency: Callable[[], float] = lambda: 0.0) -> None:
        self._jumping = _Jumping()
        self._latency = latency
        super().__init__(self._jumping)
        numbers = itertools.count()

        def numbered(loop: asyncio.AbstractEventLoop, coro: Any, **about: Any) -> asyncio.Task[Any]:  # noqa: ANN401
            return _NumberedTask(coro, number=next(numbers), loop=loop, **about)

        self.set_task_factory(numbered)
        self.set_exception_handler(lambda _loop, _about: None)

    def when_stuck(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` called when the program spins; without it ``Stuck`` is raised then."""
        self._jumping.on_stuck = tell

    def time(self) -> float:
        """Return the virtual seconds."""
        return self._jumping.now_s

    def run_in_executor(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, executor: Executor | None, func: Callable[..., _T], *args: object
    ) -> asyncio.Future[_T]:
        """Run ``func`` now, in one piece; hand its result or error over when a thread would."""
        del executor
        future: asyncio.Future[_T] = self.create_future()
        try:
            operation("thread:begin")
            result = func(*args)
            operation("thread:end")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 it is handed on, to be raised where it is awaited
            self.call_later(self._latency(), _fail, future, error)
        else:
            self.call_later(self._latency(), _answer, future, result)
        return future


def _answer(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def virtually(main: Coroutine[object, object, _T], latency: Callable[[], float] = lambda: 0.0) -> _T:
    """Run ``main`` to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(latency)) as runner:
        return runner.run(main)


def now_s() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


@contextlib.contextmanager
def process(one: Process) -> Generator[None]:
    """Let what is begun in here belong to ``one``."""
    token = PROCESS.set(one)
    try:
        yield
    finally:
        PROCESS.reset(token)
