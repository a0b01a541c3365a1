"""What the tests share. Only the pinned weights are ever fetched, once, into a cache folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import numpy as np
import platformdirs
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from multimodal.backends import checkpoints
from multimodal.catalog.cards import Catalog
from multimodal.limits import Limits
from multimodal.media import audio
from multimodal.weights import Weights

# Tests do the same on every machine: a card that is there is left to the benchmarks and, where the
# person asks for it, to `test_card`.
if not os.environ.get("MULTIMODAL_TEST_CARD"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Only the models that the program begins with are fetched by tests.
os.environ["MULTIMODAL_UPGRADE"] = "false"
# How long an example takes says how busy the machine is.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

pytest_plugins = ["browser", "fakes", "fake_page", "tabs", "fake_hub", "fake_index"]
ROOT = Path(__file__).parent.parent
WEIGHTS = Path(
    # Taken out, so that no program of a test writes there unless it is told to.
    os.environ.pop("MULTIMODAL_WEIGHTS", "")
    or platformdirs.user_cache_path("multimodal-chat") / "weights"
)


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run several at a time (`-n 2`), each computes in one thread: teams of threads
    that share the cores wait for one another."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("thorough") and not os.environ.get("MULTIMODAL_TEST_ALL"):
        pytest.skip("takes long, and quicker tests say the same; MULTIMODAL_TEST_ALL=1 runs it")


@pytest.fixture(scope="session", autouse=True)
def roomy_disk() -> Iterator[None]:
    """How full the disk of this machine is decides no test: what a program in this process is told
    of any disk is 1 TB, all of it free. Those about a full one say so themselves."""
    usage = type(shutil.disk_usage(ROOT))(10**12, 0, 10**12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        yield


@pytest.fixture
def fp32_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is quantized computes in fp32. In bfloat16 two ways to compute the same logits are one
    step of 2^-8 apart, and of two tokens nearer to each other than that, which random weights have
    in every reply, either may win, by the processor's kernels."""
    monkeypatch.setattr(checkpoints, "sixteen_bits", lambda device: torch.float32)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog([ROOT / "models"])


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"


@pytest.fixture(scope="session")
def story(examples: Path) -> NDArray[np.float32]:
    """Two English sentences, float32, mono, 16 kHz."""
    return audio.decode((examples / "speech-en.wav").read_bytes(), "speech", Limits())


@pytest.fixture(scope="session")
def speech(story: NDArray[np.float32]) -> NDArray[np.float32]:
    """Three seconds of it: the first sentence."""
    return story[: 3 * 16_000]


@pytest.fixture(scope="session")
def weights_of(catalog: Catalog) -> Callable[[str], Path]:
    """The folder with the real weights of a shipped card."""
    weights = Weights(WEIGHTS)
    return lambda name: weights.ensure(catalog.card(name))


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen[str]
    data: Path


@contextmanager
def running_app(
    data: Path, *options: str, weights: Path = WEIGHTS, port: int = 0
) -> Iterator[Server]:
    """`python app.py`, as a person would start it, on a free port unless one is named; ended at
    the end."""
    port = port or free_port()
    command = [sys.executable, "app.py", "--data", str(data), "--port", str(port), *options]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "MULTIMODAL_WEIGHTS": str(weights)},
    )
    server = Server(f"http://127.0.0.1:{port}", process, data)
    try:
        wait_until(lambda: _answers(server))
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _answers(server: Server) -> bool:
    if server.process.poll() is not None:
        raise AssertionError(
            f"the app ended: {server.process.stdout and server.process.stdout.read()}"
        )
    try:
        return httpx.get(f"{server.url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], object], timeout_s: float = 60.0, every_s: float = 0.05
) -> float:
    """Seconds until `condition` held; fails the test when it never does."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise AssertionError(f"did not happen within {timeout_s} s")
        time.sleep(every_s)
    return time.monotonic() - started


@pytest.fixture(scope="session")
def all_weights(catalog: Catalog, weights_of: Callable[[str], Path]) -> Path:
    for name in catalog.profile("embedded").defaults:
        weights_of(name)
    return WEIGHTS


@pytest.fixture(scope="module")
def app(all_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real app with the real embedded models, shared by the tests of a file that only talk to
    it: one that waits takes a tenth of a core."""
    with running_app(tmp_path_factory.mktemp("app")) as server:
        yield server
