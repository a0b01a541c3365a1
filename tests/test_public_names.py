"""No name that another library keeps to itself is used: the next release may drop it. No test reads
what a class keeps to itself: a caller could not see it."""

from __future__ import annotations

from pathlib import Path

import pytest
from public_names import foreign_names, private_reads

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "multimodal"


def test_the_package_uses_no_name_that_another_library_keeps_to_itself() -> None:
    sources = {str(p.relative_to(PACKAGE)): p.read_text("utf-8") for p in PACKAGE.rglob("*.py")}
    assert len(sources) > 100
    assert foreign_names(sources) == []


@pytest.mark.parametrize(
    "source",
    [
        "def f(model): model._prefill(1)",
        "def f(model): return model.config._attn_implementation",
        "class A:\n    def f(self): return self.model._kept",
        "class A(Base):\n    def f(self): return self._of_the_base",
        "from torch.utils._pytree import tree_leaves",
        "from transformers.generation.utils import _speculative_sampling",
        "import torch._dynamo",
        "import threading\nthreading._shutdown()",
        "import torch\ntorch._dynamo.reset()",
        "def f(x): return getattr(x, '_hidden', None)",
        "def f(x): return hasattr(x, '_hidden')",
        "def f(x): x.__dict__['_hidden'] = 1",
        "def f(x): return vars(x).pop('_hidden')",
        "from operator import attrgetter\nread = attrgetter('config._attn_implementation')",
        "def f(make): make(_from_pipeline=1)",
    ],
)
def test_a_private_name_is_found(source: str) -> None:
    assert len(foreign_names({"a.py": source})) == 1


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def __init__(self): self._a = 1\n    def f(self, other): return other._a",
        "class A:\n    _a: int = 1\n    def f(self): return self._a + self.__class__.__name__",
        "import os\nos._exit(0)",
        "_x = 1\nprint(_x)",
        "from __future__ import annotations\ndef f(x): return x.__len__()",
        "def f(words): return words.get('_word')",
        "from multimodal.memory import _anything",
    ],
)
def test_our_own_names_and_python_s_are_not_taken_for_it(source: str) -> None:
    assert foreign_names({"a.py": source}) == []


def test_a_name_of_a_base_class_of_ours_may_be_used() -> None:
    base = "class A:\n    def __init__(self): self._a = 1"
    derived = "class B(A):\n    def f(self): return self._a"
    assert foreign_names({"a.py": base, "b.py": derived}) == []
    assert len(foreign_names({"b.py": derived})) == 1


def test_no_test_reads_what_a_class_keeps_to_itself() -> None:
    sources = {str(p.relative_to(TESTS)): p.read_text("utf-8") for p in TESTS.rglob("*.py")}
    assert len(sources) > 100
    assert private_reads(sources) == []


@pytest.mark.parametrize(
    "source",
    [
        "def test(model): assert model._kept",
        "def test(load): assert load()._model.config",
        "def test(model): model._room = 1",
        "from multimodal.memory.devices.mirror import _Block",
        "from collections.abc import _check_methods",
        "def test(model): assert getattr(model, '_kept')",
    ],
)
def test_a_private_read_is_found(source: str) -> None:
    assert len(private_reads({"test_a.py": source})) == 1


def test_a_double_may_keep_things_to_itself() -> None:
    double = "class Double(Real):\n    def f(self): return self._held"
    assert private_reads({"test_a.py": f"import os\n{double}\nos._exit(0)"}) == []
