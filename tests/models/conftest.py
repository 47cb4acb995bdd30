"""What PyTorch and EDM's classes write, for the tests that read it."""

from __future__ import annotations

import sys
import types

import pytest


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def persistence(monkeypatch):
    """The names that EDM's pickles call, with bodies that must never run."""

    def module(name, **members):
        made = types.ModuleType(name)
        made.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, made)
        for value in members.values():
            value.__module__, value.__qualname__ = name, value.__name__

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("embedded source was about to run")

    class EasyDict(dict):
        pass

    module("torch_utils")
    module("torch_utils.persistence", _reconstruct_persistent_obj=_reconstruct_persistent_obj)
    module("dnnlib")
    module("dnnlib.util", EasyDict=EasyDict)

    def persistent(cls):
        def reduce(self):
            source = f"open({str(cls.mark)!r}, 'w')" if hasattr(cls, "mark") else ""
            state = self.__dict__
            meta = EasyDict(type="class", version=6, module_src=source)
            return _reconstruct_persistent_obj, (
                EasyDict(meta, class_name=cls.__name__, state=state),
            )

        cls.__reduce__ = reduce
        return cls

    return persistent
