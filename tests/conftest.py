"""Eight CPU devices, strict rank promotion, and shared fixtures."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

# Most of the time of these tests is compilation. So LLVM skips optimizations, and all processes
# (this one, its children, the workers of pytest-xdist) share a compilation cache.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true".strip()
)
# Without MLIR emitters, and with one module per program, programs as small as these compile about
# three times as fast. An unknown flag ends the process, so set both only for the jaxlib versions
# that are known to have them.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# gcsfs reads this on import; otherwise it queries Google by gRPC for the type of a bucket.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import dataclasses

import jax
import pytest
from helpers.cli import CONFIG, SENTENCES, succeed, write_model
from helpers.models import KINDS, WORDS
from helpers.paths import SHARED

from flaxdistill.experiment import config_file

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Print tables whole; pytest itself prints at the width of the terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "250")
        return (yield)


pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data next to the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared")
    return SHARED


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Return a folder with text, a teacher and two configs: `alone.py` and `taught.py`."""
    folder = tmp_path_factory.mktemp("home")
    documents = [" ".join(SENTENCES[i : i + 4]) for i in range(0, 480, 4)]
    (folder / "text.txt").write_text("\n\n".join(documents) + "\n")
    teacher = write_model(folder / "teacher", ("the", "cat", "dog", "a", "sees"))
    text = CONFIG.format(
        text=str(folder / "text.txt"), data=str(folder / "blocks"), teacher=str(teacher)
    )
    for name in ("alone", "taught"):
        (folder / f"{name}.py").write_text(f"{text}\nconfig = {name}\n")
    (folder / "common.txt").write_text(text)
    return folder


@pytest.fixture
def config(home, tmp_path):
    """Return a function that writes a config: the common lines, then its own."""

    def write(lines: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text((home / "common.txt").read_text() + lines + "\n")
        return path

    return write


@pytest.fixture(scope="module")
def finished(home) -> Path:
    """Return the folder of a finished run with a teacher; tests only read it."""
    out = succeed("distill", home / "taught.py", "--workdir", home / "finished")
    assert "read back bit-equal" in out
    return home / "finished"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    # With a smaller range, all classes have about the same probability.
    sharp = {"initializer_range": 0.5}
    return {
        kind: write_model(folder / kind, WORDS, **sharp, **({"max_positions": 64} | changes))
        for kind, changes in KINDS.items()
    }


@pytest.fixture(scope="module")
def experiments(home):
    """Return two experiments of two steps."""
    taught = config_file.load_config(home / "taught.py")
    alone = config_file.load_config(home / "alone.py")
    short = {"steps": 2, "data_dir": str(home / "blocks")}
    return {
        "student": dataclasses.replace(taught, **short),
        "control": dataclasses.replace(
            alone,
            corpus=dataclasses.replace(taught.corpus, tokenizer=str(home / "teacher")),
            **short,
        ),
    }
