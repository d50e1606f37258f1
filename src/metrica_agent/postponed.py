"""Imports that a library makes and the agent has no use for, put off until somebody looks into the module.

A Pi's memory is the reason: paho imports ``urllib.request`` for the proxies of PySocks, which is not installed: 0.3 of
the agent's 36 MiB. The standard library's own ``LazyLoader`` does not do here: Python 3.11 looks into the module
itself when it is imported the second time.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def postponed(name: str) -> Generator[None]:
    """Let ``import name`` (a module of a package) inside of the block bind a module that is imported at its first use.

    Afterwards, or when it is imported already, ``name`` is imported as ever.
    """
    if name in sys.modules:
        yield
        return
    package, _, own = name.rpartition(".")
    later = _Later(name)
    sys.modules[name] = later
    setattr(importlib.import_module(package), own, later)
    try:
        yield
    finally:
        if sys.modules.get(name) is later:
            del sys.modules[name]


class _Later(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)
