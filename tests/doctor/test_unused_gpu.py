"""A card beside a PyTorch without CUDA: the command that mends it is said before anything is
fetched, and pip does with it what it should."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import visit
from conftest import ROOT, free_port
from fakes import FakeSource, program
from playwright.sync_api import Browser, expect
from test_doctor import CARD, CPU_TORCH, FOUND, GB, NO_CARD, WINDOWS, command, drives, nvidia_smi

from multimodal.access import Hosts
from multimodal.build import UnusedGpu, read_catalog
from multimodal.doctor.machine import Machine
from multimodal.doctor.unused_gpu import find_unused_gpu
from multimodal.memory.devices.nvidia import driver
from multimodal.settings import read_settings
from multimodal.web.gauge import unused_gpu
from multimodal.web.launch import open_page


def said(machine: Machine, **given: str) -> UnusedGpu | None:
    settings = read_settings(**given)
    return find_unused_gpu(settings, read_catalog(settings), machine)


@pytest.mark.parametrize("machine", [WINDOWS, CPU_TORCH], ids=["windows", "linux"])
@pytest.mark.parametrize(
    "given", [{}, {"profile": "gpu-12gb"}, {"device": "cuda", "profile": "embedded"}]
)
def test_a_card_beside_a_torch_without_cuda_is_told_with_the_one_command(
    machine: Machine, given: dict[str, str]
) -> None:
    found = said(machine, **given)
    assert found is not None
    assert found.sentence.startswith(f"{CARD.name} is not used: PyTorch 2.13.0")
    assert "built without CUDA" in found.sentence
    assert ("for Windows, PyPI has no other" in found.sentence) is machine.is_windows
    assert found.fix == command("cu130")
    assert ("--device cpu" in found.sentence) is (not given)


def test_a_driver_that_is_too_old_is_told_instead_of_a_command() -> None:
    found = said(replace(WINDOWS, driver=drives("551.61", (12, 4))))
    assert found is not None
    assert found.fix.startswith("update the NVIDIA driver to 580 or newer")
    assert "<pre" not in unused_gpu(found)
    assert "update the NVIDIA driver" in unused_gpu(found)


@pytest.mark.parametrize(
    ("machine", "given"),
    [
        (replace(WINDOWS, torch="2.13.0+cu130", build=FOUND), {}),
        (NO_CARD, {}),
        (
            replace(WINDOWS, driver=drives("581.15", (13, 0), replace(CARD, memory_bytes=4 * GB))),
            {},
        ),
        (WINDOWS, {"profile": "embedded"}),
        (WINDOWS, {"profile": "laptop"}),
    ],
    ids=["used", "none", "too small for a profile", "embedded was chosen", "laptop was chosen"],
)
def test_nothing_is_said_where_no_card_is_missed(machine: Machine, given: dict[str, str]) -> None:
    assert said(machine, **given) is None


@pytest.mark.skipif(driver() is not None, reason="this machine has a driver, which is asked")
def test_without_a_driver_no_start_waits_for_pytorch(tmp_path: Path) -> None:
    """All that comes before the page is served."""
    code = (
        "import sys; from pathlib import Path\n"
        "from multimodal.settings import read_settings\n"
        "from multimodal.web import launch\n"
        "settings = read_settings(data=Path(sys.argv[1]), profile='embedded')\n"
        "launch.calibrate_new_gpu(settings, print)\n"
        "assert launch.unused_gpu(settings) is None\n"
        "launch.build(settings).close()\n"
        "heavy = {'torch', 'transformers', 'xllamacpp', 'faster_whisper', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(os.name != "posix", reason="its nvidia-smi is a script of a shell")
def test_the_command_comes_before_anything_is_asked_of_the_package_index(tmp_path: Path) -> None:
    """The program itself, with an nvidia-smi that shows a card, and PyTorch as it is here."""
    path = nvidia_smi(tmp_path / "bin")
    process = subprocess.Popen(
        [sys.executable, "app.py", "--data", str(tmp_path / "data"), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {
            "PATH": path,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "HF_ENDPOINT": "http://127.0.0.1:9",
        },
    )
    with closing(process.stdout or []), process:
        try:
            lines = []
            for line in process.stdout or ():
                lines.append(line)
                if line.startswith("smollm2"):
                    break
        finally:
            process.kill()
    text = "".join(lines)
    assert "NVIDIA GeForce RTX 4070 Ti is not used" in text, text
    assert "    pip install " in text
    assert text.index("    pip install ") < text.index("Multimodal chat is at")
    assert lines[-1].startswith("smollm2"), text


def test_the_page_shows_the_command_too(browser: Browser, tmp_path: Path) -> None:
    found, port = said(WINDOWS), free_port()
    assert found is not None
    made = replace(program(tmp_path, FakeSource()), unused_gpu=found)
    try:
        with (
            open_page(made, port, Hosts("127.0.0.1", ())),
            visit(browser, f"http://127.0.0.1:{port}") as person,
        ):
            banner = person.page.get_by_role("note").filter(has_text="is not used")
            expect(banner).to_contain_text(found.sentence)
            expect(banner.locator("pre")).to_have_text(found.fix)
            rules = Axe().run(person.page, options={"runOnly": ["wcag2a", "wcag2aa"]})
            assert [rule["id"] for rule in rules.response["violations"]] == []
            if picture := os.environ.get("PICTURE"):
                person.page.screenshot(path=picture)
    finally:
        made.close()


# ------------------------------------------------------------ pip


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """An empty package."""
    folder.mkdir(exist_ok=True)
    facts = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {needs}\n" if needs else ""
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{facts}/METADATA", metadata)
        archive.writestr(f"{facts}/WHEEL", tags)
        archive.writestr(f"{facts}/RECORD", "")


@pytest.mark.thorough
def test_pip_replaces_the_build_by_that_command_and_leaves_other_packages_alone(
    tmp_path: Path,
) -> None:
    public, cuda, target = tmp_path / "pypi", tmp_path / "cu130", tmp_path / "environment"
    wheel(public, "torch", "2.13.0", "filelock")
    wheel(public, "filelock", "4.3")
    wheel(cuda, "torch", "2.13.0+cu130", "filelock")
    wheel(cuda, "filelock", "3.13")
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
    python = next(target.glob("[bS]*/python*"))

    def pip(folder: Path, wanted: str) -> str:
        options = ["--no-index", "--find-links", str(folder)]
        subprocess.run([python, "-m", "pip", "install", "-q", *options, wanted], check=True)
        found = [python, "-m", "pip", "list", "--format=freeze"]
        return subprocess.run(found, check=True, capture_output=True, text=True).stdout

    assert "torch==2.13.0\n" in pip(public, "torch>=2.10,<2.14").replace("\r", "")
    assert "torch==2.13.0\n" in pip(cuda, "torch>=2.10,<2.14"), "a range changes nothing"
    wanted = command("cu130").split('"')[1]
    here = pip(cuda, wanted)
    assert "torch==2.13.0+cu130" in here
    assert "filelock==4.3" in here
