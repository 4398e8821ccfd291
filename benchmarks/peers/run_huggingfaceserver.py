"""Runs KServe's huggingfaceserver from a copy of kserve/kserve, with no vllm: that has no use for an encoder.

It takes the server's own flags; the copy's packages are on PYTHONPATH. KServe takes its request types for
generation from vllm: here they are classes with no fields.
"""

import importlib.abc
import importlib.machinery
import runpy
import sys
import types
from typing import Any

import pydantic


class Stub(types.ModuleType):
    """A module in which whatever is asked for is a class with no fields."""

    __path__: list[str] = []  # noqa: RUF012, a package's, as Python has it

    def __getattr__(self, name: str) -> Any:
        """Makes a class, or a decorator that changes nothing."""
        if name.startswith("__"):
            raise AttributeError(name)
        made = (lambda function: function) if name == "with_cancellation" else type(name, (pydantic.BaseModel,), {})
        setattr(self, name, made)
        return made


class StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds vllm and all that is asked for in it, but its parser of flags, in whose place the server takes its own."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Finds a module of vllm's."""
        stubbed = fullname.split(".")[0] == "vllm" and not fullname.startswith("vllm.utils")
        return importlib.machinery.ModuleSpec(fullname, self) if stubbed else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Makes the module."""
        return Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Does nothing: a stub makes what it holds when it is asked for."""


sys.meta_path.insert(0, StubFinder())
runpy.run_module("huggingfaceserver", run_name="__main__", alter_sys=True)
