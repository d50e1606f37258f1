"""Imports that libraries make and the agent has no use for: left out, or put off until somebody looks into the module.

What a process has imported takes a Pi's memory for as long as it lives. The standard library's own ``LazyLoader`` does
not do here: Python 3.11 looks into the module itself when it is imported the second time.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping


@contextmanager
def without(*names: str) -> Generator[None]:
    """Let the import of each module inside of the block fail, as it does where the module is not installed.

    For libraries that ask and have an answer of their own. Afterwards, or when it is imported already, a module is
    imported as ever.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # pyright: ignore[reportArgumentType, reportCallIssue] typeshed forgets None
    try:
        yield
    finally:
        for name in absent:
            if name in sys.modules and sys.modules[name] is None:  # pyright: ignore[reportUnnecessaryComparison] likewise
                del sys.modules[name]


@contextmanager
def postponed(*names: str, known: Mapping[str, object] | None = None) -> Generator[None]:
    """Let ``import name`` inside of the block bind a module that is imported at its first use.

    What ``known`` names is had without: for ``from module import name``. Afterwards, or when it is imported already, a
    module is imported as ever.
    """
    later = {name: _Later(name, known or {}) for name in names if name not in sys.modules}
    sys.modules.update(later)
    try:
        yield
    finally:
        for name, module in later.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
                package, _, own = name.rpartition(".")
                if package in sys.modules:  # imported before or meanwhile, and without what it has by that name
                    setattr(sys.modules[package], own, module)


class _Later(ModuleType):
    def __init__(self, name: str, known: Mapping[str, object]) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> object:
        if name == "__path__":  # ``from module import name`` asks whether it is a package
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)
