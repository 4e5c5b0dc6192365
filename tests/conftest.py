"""Sets up the process before jax is imported: CPU, eight devices, quiet."""

import ctypes
import gc
import os
import pathlib
import shutil
import sys
import tempfile

NUM_SIMULATED_DEVICES = 8
_DEVICES_FLAG = "--xla_force_host_platform_device_count"


def _prepare_environment() -> None:
  os.environ["JAX_PLATFORMS"] = "cpu"
  flags = os.environ.get("XLA_FLAGS", "").split()
  flags = [flag for flag in flags if not flag.startswith(_DEVICES_FLAG)]
  flags.append(f"{_DEVICES_FLAG}={NUM_SIMULATED_DEVICES}")
  # On a busy machine eight devices on two cores may be 40 s apart, where XLA
  # ends the process.
  flags.append("--xla_cpu_collective_call_terminate_timeout_seconds=300")
  os.environ["XLA_FLAGS"] = " ".join(flags)
  cache_dir = pathlib.Path(tempfile.gettempdir(), f"clap_jax_{os.getuid()}")
  cache_dir.mkdir(mode=0o700, exist_ok=True)
  if cache_dir.is_symlink() or cache_dir.stat().st_uid != os.getuid():
    # Another user may have put programs there, which jax would run.
    cache_dir = pathlib.Path(tempfile.mkdtemp())
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir))
  # Most compilations of the tests are small: keep all of them.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


_prepare_environment()

import pytest  # noqa: E402  (after the environment, as everything else)

from tests import object_store  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


# A process frees what its tests compiled when it has grown by this much.
_GROWTH_MIB = 300
_kept_mib = 0
_num_buckets = 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
  """Frees compiled programs with their module, or earlier if they are many.

  The whole suite would hold gigabytes of them.
  """
  global _kept_mib  # noqa: PLW0603  (what is left after the last release)
  result = yield
  is_last = nextitem is None or nextitem.path != item.path
  if is_last or _resident_mib() > _kept_mib + _GROWTH_MIB:
    _release_memory()
    _kept_mib = _resident_mib()
  return result


def developer_tool(name: str) -> str:
  """The program `name`, of this environment or the system; skips without."""
  beside = pathlib.Path(sys.prefix, "bin")
  path = os.pathsep.join((str(beside), os.environ["PATH"]))
  program = shutil.which(name, path=path)
  if program is None:
    pytest.skip(f'{name} is not installed: pip install "clap_jax[dev]"')
  return program


def _release_memory() -> None:
  if jax := sys.modules.get("jax"):
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":  # the C library keeps what was freed otherwise
      ctypes.CDLL(None).malloc_trim(0)


def _resident_mib() -> float:
  statistics = pathlib.Path("/proc/self/statm")
  if not statistics.exists():  # not Linux: with the module alone
    return 0.0
  pages = int(statistics.read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """The directory of real data beside the repository, or a skip."""
  path = REPOSITORY.parent / "shared" / "data"
  if not path.is_dir():
    pytest.skip(f"no real data beside the repository: {path} is missing")
  return path


@pytest.fixture(scope="session")
def _emulator():
  with object_store.emulated() as proxy:
    yield proxy


@pytest.fixture
def bucket(_emulator) -> object_store.Bucket:
  """An empty bucket on an emulated GCS, or a skip without an emulator."""
  global _num_buckets  # noqa: PLW0603
  _num_buckets += 1
  return object_store.make_bucket(_emulator, f"test-{_num_buckets}")


@pytest.fixture
def figure(capsys):
  """Prints a figure beside its target, even where output is captured."""

  def show(name, value, target):
    with capsys.disabled():
      print(f"\n  {name}: {value} (target: {target})", flush=True)

  return show
