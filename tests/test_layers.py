"""The layering holds, and the check of it can fail."""

from __future__ import annotations

import pytest
from conftest import ROOT
from layers import (
    ALLOWED_SIDEWAYS,
    FLOORS,
    faults,
    imported,
    model_names,
    module_of,
    unit_of,
    units_imported,
)


@pytest.fixture(scope="module")
def program() -> dict[str, str]:
    package = ROOT / "multimodal"
    return {str(p.relative_to(package)): p.read_text("utf-8") for p in package.rglob("*.py")}


def test_the_layering_of_the_program_holds(program: dict[str, str]) -> None:
    assert len(program) > 30
    assert faults(program) == []


def test_no_floor_and_no_exception_is_kept_for_what_is_gone(program: dict[str, str]) -> None:
    modules = {module_of(path): source for path, source in program.items() if source.strip()}
    units = {module: unit_of(module) for module in modules}
    assert set(units.values()) - {None} == set(FLOORS)
    used = {
        (units[module], other)
        for module, source in modules.items()
        for other in units_imported(source, set(modules))
    }
    assert used >= ALLOWED_SIDEWAYS


def test_the_entry_point_is_short_and_only_calls_the_command_line() -> None:
    source = (ROOT / "app.py").read_text("utf-8")
    assert source.count("\n") < 60
    assert {name for name in imported(source) if name.startswith("multimodal")} == {
        "multimodal.cli.commands",
        "multimodal.cli.commands.serve_main",
    }


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        ({"turn/router.py": "from multimodal.chats.store import Store"}, "which is above"),
        ({"build.py": "from multimodal.chats.service import Chats"}, "on the same floor"),
        ({"turn/router.py": "def f():\n    import torch"}, "heavy import torch"),
        ({"web/page.py": "from torch import nn"}, "heavy import torch"),
        ({"memory/utils.py": "x = 1"}, "says nothing"),
        ({"surprise.py": "x = 1"}, "is on no floor"),
        ({"turn/router.py": "from .store import Store"}, "relative import .store"),
        ({"web/page.py": "from multimodal import cli"}, "on the same floor"),
        ({"catalog/cards.py": "import onnxruntime.tools"}, "heavy import onnxruntime"),
        ({"media/folder.py": "if TYPE_CHECKING:\n    import cv2"}, "heavy import cv2"),
        (
            {
                "memory/__init__.py": "from multimodal.memory.a import x",
                "memory/a.py": "from multimodal.memory import y",
            },
            "cycle: multimodal.memory -> multimodal.memory.a -> multimodal.memory",
        ),
        (
            {
                "memory/a.py": "from multimodal.memory.b import x",
                "memory/b.py": "def f():\n    import multimodal.memory.a",
            },
            "cycle: multimodal.memory.a -> multimodal.memory.b -> multimodal.memory.a",
        ),
    ],
)
def test_each_breach_is_found(sources: dict[str, str], fault: str) -> None:
    assert any(fault in found for found in faults(sources))


def test_what_is_allowed_is_not_reported() -> None:
    sources = {
        "chats/store.py": "from multimodal.messages import Message\nimport sqlalchemy",
        "backends/x.py": "import torch\nfrom multimodal.backends.base import load",
        "cli/commands.py": "def f():\n    from multimodal.web.launch import serve",
    }
    assert faults(sources) == []


def test_the_memory_manager_names_no_class_of_any_model(program: dict[str, str]) -> None:
    """Families declare what runs, and cards what it is built from."""
    found = {path: model_names(text) for path, text in program.items() if path.startswith("memory")}
    assert len(found) > 20
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from whisper.model import Whisper", "Whisper"),
        ("x = f(model).__name__.startswith('UNet2DCondition')", "UNet2DCondition"),
        ("part = Part(model='AutoModelForCausalLM')", "AutoModelForCausalLM"),
        ("transformers.CLIPVisionModel(config)", "CLIPVisionModel"),
        ('def f():\n    """As Blip2QFormerModel has it."""', "Blip2QFormerModel"),
        ("name.endswith('VisionModel')", "VisionModel"),
        ("isinstance(x, diffusers.AutoencoderKL)", "AutoencoderKL"),
    ],
)
def test_the_name_of_a_model_class_is_found(source: str, name: str) -> None:
    assert model_names(source) == {name}
    bases = "from transformers import PreTrainedModel\nfrom pydantic import BaseModel\n"
    assert not model_names(bases + "class PlannedModel(BaseModel): pass\nx: PlannedModel")
