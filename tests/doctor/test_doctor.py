"""The doctor's rules on machines that are made up, its facts as nvidia-smi writes them, and what a
card can run."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from command_line import run
from conftest import ROOT
from local_server import running_server
from packaging.requirements import Requirement

from multimodal.catalog.cards import Catalog
from multimodal.doctor import examine, report, rules
from multimodal.doctor.capacity import Room, capacity_finding, capacity_findings
from multimodal.doctor.finding import Finding
from multimodal.doctor.machine import Machine, vendors_on_bus
from multimodal.doctor.supplies import disk_room, hub, package_index
from multimodal.doctor.torch_wheels import TORCH, runs_on, torch_install_command
from multimodal.memory.devices.nvidia import Driver, Gpu, driver, query_driver
from multimodal.memory.devices.torch_build import TorchBuild, parse_probe_output, probe_build
from multimodal.settings import byte_size, read_settings

GB = 1_000_000_000
CARD = Gpu("NVIDIA GeForce RTX 4070 Ti", 12282 << 20, 11_000 << 20, (8, 9))
KERNELS = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
FOUND = TorchBuild(
    cuda="13.0", gpu=CARD.name, gpu_bytes=12_878_086_144, compute=(8, 9), kernels=KERNELS
)


def command(index: str, release: str = "2.13.0", again: str = "") -> str:
    """What installs that build of PyTorch."""
    build = f'"torch=={release}+{index}"'
    return f"pip install {again}{build} --index-url https://download.pytorch.org/whl/{index}"


WINDOWS = Machine(
    system="Windows",
    release="Windows-11-10.0.26100-SP0",
    python="3.12.10",
    bits=64,
    cores=16,
    memory_bytes=32 * GB,
    free_bytes=20 * GB,
    driver=Driver("581.15", (13, 0), (CARD,)),
    torch="2.13.0",
    bitsandbytes="0.50.2",
)
LINUX = replace(
    WINDOWS,
    system="Linux",
    release="Linux-6.8.0-x86_64-with-glibc2.39",
    vendors=frozenset({"NVIDIA"}),
    torch="2.13.0+cu130",
    build=FOUND,
)
NO_CARD = replace(LINUX, driver=None, vendors=frozenset(), torch="2.13.0+cpu", build=TorchBuild())


def judged(machine: Machine, wanted: bool = False) -> dict[str, Finding]:
    found = list(rules.findings(machine, wanted))
    assert all(finding.fix for finding in found if not finding.is_ok), "no way out"
    return {finding.name: finding for finding in found}


def drives(version: str, cuda: tuple[int, int], card: Gpu = CARD) -> Driver:
    return Driver(version, cuda, (card,))


# ------------------------------------------------------------ the card and PyTorch


CPU_TORCH = replace(LINUX, torch="2.13.0+cpu", build=TorchBuild())


@pytest.mark.parametrize("machine", [WINDOWS, CPU_TORCH], ids=["windows", "linux"])
def test_a_torch_for_the_cpu_beside_a_card_gets_the_command_that_mends_it(machine: Machine) -> None:
    found = judged(machine)["torch"]
    assert found.verdict == "warn"
    assert "built without CUDA" in found.found
    assert ("for Windows, PyPI has no other" in found.found) is machine.is_windows
    assert ("Windows" in found.found) is machine.is_windows
    assert found.fix == command("cu130")
    assert judged(machine, wanted=True)["torch"].verdict == "fail"


@pytest.mark.parametrize("machine", [LINUX, replace(WINDOWS, torch="2.13.0+cu130", build=FOUND)])
def test_a_machine_that_is_well_needs_nothing(machine: Machine) -> None:
    found = judged(machine, wanted=True)
    assert all(finding.is_ok for finding in found.values())
    assert "12.88 GB" in found["GPU"].found
    assert "compute capability 8.9" in found["GPU"].found
    assert "CUDA up to 13.0" in found["NVIDIA driver"].found
    assert f"finds {CARD.name}" in found["torch"].found


@pytest.mark.parametrize(
    ("cuda", "compute", "index"),
    [
        ((13, 3), (8, 9), "cu130"),
        ((13, 0), (12, 0), "cu130"),
        ((12, 9), (8, 9), "cu128"),
        ((12, 8), (12, 0), "cu128"),
        ((12, 7), (8, 9), "cu126"),
        ((12, 6), (8, 9), "cu126"),
        ((13, 0), (6, 1), "cu126"),
        ((13, 0), (7, 0), "cu126"),
    ],
)
def test_the_index_is_the_newest_that_driver_and_card_run(
    cuda: tuple[int, int], compute: tuple[int, int], index: str
) -> None:
    card = replace(CARD, compute=compute)
    assert torch_install_command(replace(WINDOWS, driver=drives("", cuda, card))).endswith(
        f"/{index}"
    )


@pytest.mark.parametrize(
    ("cuda", "compute"), [((12, 5), (8, 9)), ((11, 8), (8, 6)), ((12, 6), (12, 0))]
)
def test_a_driver_that_is_too_old_is_to_be_updated(
    cuda: tuple[int, int], compute: tuple[int, int]
) -> None:
    machine = replace(WINDOWS, driver=drives("537.13", cuda, replace(CARD, compute=compute)))
    found = judged(machine)
    assert found["NVIDIA driver"].verdict == "warn"
    assert "too old" in found["NVIDIA driver"].found
    for name in ("NVIDIA driver", "torch"):
        assert "update the NVIDIA driver to 580 or newer" in found[name].fix
        assert "download.pytorch.org" not in found[name].fix


def test_an_old_driver_with_which_torch_finds_the_card_is_left_alone() -> None:
    build = replace(FOUND, cuda="12.6")
    machine = replace(LINUX, driver=drives("550.54", (12, 4)), torch="2.13.0+cu126", build=build)
    assert judged(machine)["NVIDIA driver"].is_ok


def test_a_torch_newer_than_the_driver_gets_the_one_that_it_runs_or_a_newer_driver() -> None:
    build = TorchBuild(cuda="13.0", gpu_error="The NVIDIA driver on your system is too old")
    found = judged(replace(LINUX, driver=drives("570.86", (12, 8)), build=build))["torch"]
    assert "too old" in found.found
    assert found.fix.startswith(f"{command('cu128', '2.11.0')} ; or update the NVIDIA driver")


def test_a_card_that_torch_does_not_find_for_another_reason_is_told_with_that_reason() -> None:
    build = TorchBuild(cuda="13.0", gpu_error="No CUDA GPUs are available")
    found = judged(replace(LINUX, build=build))["torch"]
    assert "No CUDA GPUs are available" in found.found
    assert "CUDA_VISIBLE_DEVICES" in found.fix


def test_a_torch_without_code_for_the_card_is_replaced() -> None:
    card = Gpu("NVIDIA GeForce RTX 5070", 12 * GB, 0, (12, 0))
    build = replace(FOUND, cuda="12.6", gpu=card.name, compute=(12, 0), kernels=("sm_86", "sm_90"))
    machine = replace(LINUX, torch="2.13.0+cu126", build=build)
    found = judged(replace(machine, driver=drives("581.15", (13, 0), card)))["torch"]
    assert "no code for its compute capability 12.0" in found.found
    assert found.fix == command("cu130")


@pytest.mark.parametrize(
    ("here", "driver_cuda", "wanted"),
    [
        ("2.12.1", (13, 0), command("cu130", "2.12.1")),
        ("2.12.1+cpu", (13, 0), command("cu130", "2.12.1")),
        ("2.12.1+cu130", (12, 6), command("cu126", "2.12.1")),
        ("2.12.1", (12, 8), command("cu128", "2.11.0")),
        ("2.9.1", (13, 0), command("cu130")),
        ("", (13, 0), command("cu130")),
        ("2.13.0+cu130", (13, 0), command("cu130", again="--force-reinstall --no-deps ")),
    ],
)
def test_the_command_keeps_the_release_that_is_there_where_the_index_has_it(
    here: str, driver_cuda: tuple[int, int], wanted: str
) -> None:
    machine = replace(WINDOWS, torch=here, driver=drives("", driver_cuda))
    assert torch_install_command(machine) == wanted


@pytest.mark.parametrize(
    ("compute", "kernels", "runs"),
    [
        ((8, 9), ("sm_86",), True),
        ((8, 6), ("sm_89",), False),
        ((8, 9), ("sm_75", "sm_90"), False),
        ((12, 0), ("sm_90", "compute_90"), True),
        ((9, 0), ("sm_90a",), False),
        ((12, 1), ("sm_100", "sm_120"), True),
    ],
)
def test_compiled_code_runs_within_its_major_version_and_ptx_on_what_is_newer(
    compute: tuple[int, int], kernels: tuple[str, ...], runs: bool
) -> None:
    assert runs_on(compute, kernels) is runs


def test_a_torch_that_cannot_be_loaded_on_windows_names_the_runtime_it_may_miss() -> None:
    build = TorchBuild(error="[WinError 126] Error loading c10.dll")
    found = judged(replace(WINDOWS, build=build))["torch"]
    assert found.verdict == "fail"
    assert "WinError 126" in found.found
    assert "vc_redist.x64.exe" in found.fix


@pytest.mark.parametrize("version", ["", "2.9.1", "2.14.0"])
def test_a_missing_or_wrong_torch_is_installed_for_the_card(version: str) -> None:
    found = judged(replace(WINDOWS, torch=version))["torch"]
    assert found.verdict == "fail"
    assert found.fix == command("cu130")


# ------------------------------------------------------------ other machines


def test_a_machine_without_a_card_is_well_and_cannot_be_asked_for_one() -> None:
    assert all(finding.is_ok for finding in judged(NO_CARD).values())
    found = judged(NO_CARD, wanted=True)["GPU"]
    assert found.verdict == "fail"
    assert "--profile embedded" in found.fix


def test_a_card_of_another_maker_is_named() -> None:
    found = judged(replace(NO_CARD, vendors=frozenset({"AMD"})))
    assert "AMD" in found["GPU"].found
    assert found["GPU"].is_ok
    assert "NVIDIA driver" not in found


def test_a_card_without_its_driver_gets_the_driver() -> None:
    found = judged(replace(NO_CARD, vendors=frozenset({"NVIDIA", "Intel"})))["NVIDIA driver"]
    assert found.verdict == "warn"
    assert "ubuntu-drivers install" in found.fix


def test_in_wsl_the_driver_is_installed_in_windows() -> None:
    wsl = replace(NO_CARD, is_wsl=True)
    assert "in Windows, not inside WSL" in judged(wsl)["GPU"].fix
    assert "(WSL)" in judged(wsl)["Python"].found
    old = replace(LINUX, is_wsl=True, build=TorchBuild(), driver=drives("528.49", (12, 0)))
    assert "in Windows, not inside WSL" in judged(old)["NVIDIA driver"].fix


def test_a_driver_that_does_not_answer_is_told_in_its_words() -> None:
    broken = Driver(error="Failed to initialize NVML: Driver/library version mismatch")
    found = judged(replace(LINUX, driver=broken, build=TorchBuild(cuda="13.0")))["NVIDIA driver"]
    assert "version mismatch" in found.found
    assert found.fix.startswith("restart the machine")


def test_a_bitsandbytes_without_its_library_for_cuda_is_installed_again() -> None:
    build = replace(FOUND, bnb_error="No compatible CUDA binary found")
    found = judged(replace(LINUX, build=build), wanted=True)["bitsandbytes"]
    assert found.verdict == "fail"
    assert "No compatible CUDA binary found" in found.found
    assert found.fix == 'pip install --force-reinstall --no-deps "bitsandbytes>=0.50,<0.51"'
    assert judged(replace(LINUX, bitsandbytes=""))["bitsandbytes"].found == "missing"


def test_python_of_32_bits_fails_and_little_memory_is_told() -> None:
    assert judged(replace(WINDOWS, bits=32))["Python"].verdict == "fail"
    assert judged(replace(NO_CARD, free_bytes=GB))["memory"].verdict == "warn"


def test_what_a_full_card_does_under_windows_is_told() -> None:
    """It hinders nobody, and cannot be read from the system."""
    told = judged(WINDOWS)["full card"]
    assert (told.verdict, told.is_ok) == ("info", True)
    assert "Prefer No Sysmem Fallback" in told.found
    assert "WSL ignores" in judged(replace(LINUX, is_wsl=True))["full card"].found
    assert "full card" not in judged(LINUX)
    assert "full card" not in judged(replace(WINDOWS, driver=None))


def test_missing_and_wrong_packages_get_their_commands() -> None:
    wanted = ["av>=14", "gradio<7,>=6.31", "torch>=2.10", "pytest; extra == 'dev'", "rich>=14"]
    here = {"av": "14.1.0", "gradio": "5.9"}
    found = {f.name: f for f in rules.packages(wanted, lambda name: here.get(name, ""))}
    assert found["gradio"].fix == 'pip install "gradio<7,>=6.31"'
    assert found["rich"].found == "missing"
    assert found["packages"].found.startswith("1 ")
    assert set(found) == {"gradio", "rich", "packages"}


def test_the_versions_that_are_recommended_are_those_that_are_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    required = {Requirement(line).name: Requirement(line) for line in project["dependencies"]}
    for told in (TORCH, rules.BITSANDBYTES, rules.PYAV):
        assert required[Requirement(told).name].specifier == Requirement(told).specifier


# ------------------------------------------------------------ nvidia-smi

ROW = "581.15, NVIDIA GeForce RTX 4070 Ti, 12282, 11000, 8.9\n"
TABLE = "| NVIDIA-SMI 581.15   Driver Version: 581.15   CUDA Version: 13.0 |"
NEW_TABLE = "| NVIDIA-SMI 610.47   KMD Version: 610.47   CUDA UMD Version: 13.3 |"


def smi(row: str = ROW, table: str = TABLE, status: int = 0) -> Driver:
    return query_driver(lambda options: (status, row if options else table))


def test_driver_and_cards_are_read() -> None:
    assert smi() == Driver("581.15", (13, 0), (CARD,))
    assert len(smi(ROW * 2).gpus) == 2
    assert smi(table=NEW_TABLE).cuda == (13, 3)


@pytest.mark.parametrize(
    ("version", "cuda"), [("581.15", (13, 0)), ("572.83", (12, 8)), ("545.23", None)]
)
def test_a_driver_that_does_not_tell_its_cuda_version_is_known_by_its_branch(
    version: str, cuda: tuple[int, int] | None
) -> None:
    assert smi(ROW.replace("581.15", version), table="").cuda == cuda


def test_what_the_driver_does_not_know_is_left_open() -> None:
    (card,) = smi("580.1, NVIDIA GB10, [N/A], [N/A], [N/A]\n").gpus
    assert card == Gpu("NVIDIA GB10", 0, 0, None)
    machine = replace(LINUX, driver=drives("580.1", (13, 0), card))
    assert "GB)" not in judged(machine)["GPU"].found


def test_an_old_driver_is_asked_without_the_field_it_does_not_know() -> None:
    def old(options: list[str]) -> tuple[int, str]:
        if not options:
            return 0, "Driver Version: 470.82.01   CUDA Version: 11.4"
        if "compute_cap" in options[0]:
            return 2, 'Field "compute_cap" is not a valid field to query.\n'
        return 0, "470.82.01, Tesla T4, 15109, 15000\n"

    card = Gpu("Tesla T4", 15109 << 20, 15000 << 20)
    assert query_driver(old) == Driver("470.82.01", (11, 4), (card,))


def test_a_failing_nvidia_smi_is_told_in_its_words() -> None:
    failed = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    for status, text in ((9, failed), (0, "No devices were found")):
        assert smi(text, status=status) == Driver(error=text)


def test_makers_of_cards_are_read_from_the_bus(tmp_path: Path) -> None:
    for kind, maker in (("0x030000", "0x10de"), ("0x038000", "0x1002"), ("0x020000", "0x8086")):
        place = tmp_path / maker
        place.mkdir()
        (place / "class").write_text(f"{kind}\n")
        (place / "vendor").write_text(f"{maker}\n")
    assert vendors_on_bus(tmp_path) == {"NVIDIA", "AMD"}


# ------------------------------------------------------------ PyTorch's own process


def test_the_torch_of_this_machine_is_asked_in_a_process_of_its_own() -> None:
    import torch

    found = probe_build()
    assert found.error == ""
    assert found.cuda == (torch.version.cuda or "")
    assert bool(found.gpu) is torch.cuda.is_available()


def test_noise_before_the_facts_is_passed_over_and_a_crash_is_told() -> None:
    line = '{"cuda": "13.0", "compute": [8, 9], "kernels": ["sm_86"]}'
    found = parse_probe_output(f"WARNING: bitsandbytes\n{line}\n", "", 0)
    assert (found.cuda, found.compute, found.kernels) == ("13.0", (8, 9), ("sm_86",))
    crashed = parse_probe_output("", "Segmentation fault\n", -11).error
    assert "status -11: Segmentation fault" in crashed
    assert parse_probe_output("not facts", "", 0).error


def test_a_torch_that_never_loads_does_not_hold_the_doctor() -> None:
    assert "did not end" in probe_build(timeout_s=0.001).error


# ------------------------------------------------------------ what the card can run


def card_line(
    catalog: Catalog, room: Room, profile: str = "gpu-12gb", chosen: bool = False
) -> Finding:
    return capacity_finding(catalog, catalog.profile(profile), room, chosen)


def findings_in(catalog: Catalog, room: Room) -> dict[str, Finding]:
    """With the embedded profile."""
    found = capacity_findings(catalog, catalog.profile("embedded"), room)
    return {finding.name: finding for finding in found}


def room(card_gb: float, budget: int | None = None, usable: bool = True) -> Room:
    return Room(int(card_gb * GB), 32 * GB, budget, usable)


def test_a_card_of_12_gb_runs_its_profile_by_swapping(catalog: Catalog) -> None:
    found = card_line(catalog, room(12.88)).found
    assert "fits by swapping" in found
    assert "python app.py --profile gpu-12gb" in found
    assert "--budget" not in found
    assert "python app.py" not in card_line(catalog, room(12.88, usable=False)).found


def test_a_large_budget_on_a_large_card_holds_all_at_once(catalog: Catalog) -> None:
    assert "fits together" in card_line(catalog, room(24, budget=20 * GB)).found


def test_a_card_smaller_than_the_profile_gets_the_budget_it_has(catalog: Catalog) -> None:
    assert "--budget 8.5GB" in card_line(catalog, room(8.59)).found


def test_a_card_too_small_is_told_what_is_needed(catalog: Catalog) -> None:
    found = card_line(catalog, room(4))
    assert found.is_ok, "a profile that nobody chose is no fault of the machine"
    assert "needs " in found.found
    assert "4.00 GB are there" in found.found
    needed = float(found.found.partition("needs ")[2].split()[0])
    assert "needs" not in card_line(catalog, room(needed + 0.01)).found
    assert "needs" in card_line(catalog, room(needed - 0.01)).found


def test_a_budget_too_small_fails_the_profile_that_was_chosen(catalog: Catalog) -> None:
    found = card_line(catalog, room(12.88, budget=4 * GB), chosen=True)
    assert found.verdict == "fail"
    budget = found.fix.partition("--budget ")[2]
    assert "fits by swapping" in card_line(catalog, room(12.88, byte_size("", budget))).found


def test_without_a_card_its_profile_says_so(catalog: Catalog) -> None:
    assert card_line(catalog, room(0)).found.startswith("needs an NVIDIA card")
    assert card_line(catalog, room(0), chosen=True).verdict == "fail"


def test_without_torch_only_what_needs_it_is_left_open(catalog: Catalog) -> None:
    found = findings_in(catalog, replace(room(12.88), torch_loads=False))
    assert "until torch can be loaded" in found["profile gpu-12gb"].found
    assert "fits together" in found["profile embedded"].found


# ------------------------------------------------------------ supplies and words


def test_weights_that_do_not_fit_the_disk_fail() -> None:
    folder = Path("/data/weights")
    assert disk_room(folder, 40 * GB, 30 * GB).verdict == "ok"
    assert disk_room(folder, 30 * GB + 1, 30 * GB).verdict == "warn"
    assert disk_room(folder, 20 * GB, 30 * GB).verdict == "fail"
    assert "30.00 GB needed to fetch weights" in disk_room(folder, 20 * GB, 30 * GB).found


@pytest.mark.parametrize("ask", [package_index, lambda offline: hub(offline, needed=False)])
def test_offline_nobody_is_asked(ask: Callable[[bool], Finding]) -> None:
    assert ask(True).found == "not asked (--offline)"


def test_what_is_not_there_and_not_needed_is_not_called_ok(catalog: Catalog) -> None:
    without = findings_in(catalog, room(0))
    assert without["profile gpu-12gb"].verdict == "info"
    assert without["profile embedded"].verdict == "ok"
    assert findings_in(catalog, room(4))["profile gpu-24gb"].verdict == "info"
    told = list(report(list(without.values())))
    assert any(row.startswith("info  profile gpu-12gb") for row in told)
    assert told[-1] == "\nNothing needs mending."


class _Unwell(BaseHTTPRequestHandler):
    """A hub that answers, with an error."""

    def do_HEAD(self) -> None:
        self.send_error(503)


@pytest.fixture(params=["refuses", "is silent", "is unwell"])
def no_hub(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something that is no hub: nobody, one that never answers, one in trouble."""
    if request.param == "is unwell":
        with running_server(_Unwell) as url:
            yield url
        return
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            place.listen()
        yield f"http://127.0.0.1:{place.getsockname()[1]}"


def test_a_hub_that_does_not_answer_fails_only_those_who_need_it(no_hub: str) -> None:
    needed, unneeded = (hub(False, needed=needed, endpoint=no_hub) for needed in (True, False))
    assert (needed.verdict, unneeded.verdict) == ("fail", "info")
    assert needed.fix
    for found in (needed, unneeded):
        assert re.search(r"127.0.0.1 (does not answer|answers with status 503)", found.found)


no_driver = pytest.mark.skipif(driver() is not None, reason="this machine has a card")


@no_driver
@pytest.mark.parametrize(
    ("device", "profile", "needs_card"),
    [
        ("auto", "gpu-12gb", True),
        ("cuda", "embedded", True),
        ("cpu", "gpu-12gb", False),
        ("sim:12GB", "auto", False),
        ("auto", "auto", False),
    ],
)
def test_a_card_is_missed_only_where_what_was_chosen_needs_one(
    device: str, profile: str, needs_card: bool, tmp_path: Path
) -> None:
    settings = read_settings(device=device, profile=profile, data=tmp_path, offline=True)
    found = {finding.name: finding for finding in examine(settings)}
    assert (found["GPU"].verdict == "fail") is needs_card
    name = {"sim:12GB": "gpu-12gb"}.get(device, "embedded") if profile == "auto" else profile
    chosen = found[f"profile {name}"]
    assert chosen.found.startswith("chosen; ")
    assert (chosen.verdict == "fail") is (needs_card and name != "embedded")


def test_commands_stand_on_lines_of_their_own() -> None:
    told = "\n".join(report(list(judged(WINDOWS).values())))
    assert f"\n    {command('cu130')}\n" in f"{told}\n"
    assert "Nothing needs mending" in "\n".join(report(list(judged(LINUX).values())))


def test_what_one_step_mends_is_told_once() -> None:
    bad = [Finding("fail", name, "is missing", "connect") for name in ("hub", "model")]
    assert list(report(bad))[-1] == "\n  hub, model:\n    connect"


def test_json_says_name_ok_found_and_fix() -> None:
    found = judged(WINDOWS)["torch"].as_dict()
    assert found["ok"] is False
    assert {"name", "ok", "found", "fix"} <= set(found)


def nvidia_smi(folder: Path) -> str:
    """A PATH with a program of that name, which shows a card."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    asked = f'case "$1" in --query-gpu*) echo "{ROW.strip()}" ;; *) echo "{TABLE}" ;; esac'
    program.write_text(f"#!/bin/sh\n{asked}\n")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.skipif(
    os.name == "nt" or driver() is not None, reason="stands in for a driver that is not there"
)
def test_a_card_that_nvidia_smi_shows_is_told_from_the_command_line(tmp_path: Path) -> None:
    """A program of that name stands where the driver's would; PyTorch here finds no such card."""
    data = ("--data", str(tmp_path / "data"))
    told = run("doctor", "--offline", "--device", "cuda", *data, PATH=nvidia_smi(tmp_path))
    assert told.exit_code == 1, told.stderr
    lines_told = told.stdout.splitlines()
    assert any(row.startswith("ok    NVIDIA driver") and "581.15" in row for row in lines_told)
    assert any(row.startswith("fail  torch") for row in lines_told)
    assert any("profile gpu-12gb" in row and "fits by swapping" in row for row in lines_told)
    assert told.stderr == ""
