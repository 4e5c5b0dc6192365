"""The environment that launch.sh makes, on images that lack a fitting Python.

The interpreters, pip and uv are stand-ins that note their arguments.
"""

import shutil

import pytest

from tests.launcher.hosts import locks


def test_an_old_python_without_venv_gets_another(image):
  install, calls, folder, *_ = image
  result = install("tpu")
  assert result.returncode == 0, result.stderr
  assert "uv downloads another" in result.stderr
  assert locks(calls()) == [
    "requirements-uv.lock",
    "requirements-build.lock",
    "requirements.lock",
    "requirements-tpu.lock",
  ]
  (brought,) = (
    call for call in calls() if call.startswith("uv python install")
  )
  assert brought.endswith(" 3.11")
  (made,) = (call for call in calls() if " -m venv " in call)
  assert made == f"python3.11 -m venv {folder}/.venv"
  before = len(calls())
  assert install().returncode == 0  # all is there
  assert len(calls()) == before


def test_a_fitting_python_is_taken(image, tmp_path):
  install, calls, folder, *_ = image
  (tmp_path / "fits").touch()
  assert install().returncode == 0
  assert f"python3 -m venv {folder}/.venv" in calls()
  assert "requirements-uv.lock" not in locks(calls())


@pytest.mark.parametrize("missing", ["no_pip", "no_download"])
def test_without_another_python_it_exits_2(image, tmp_path, missing):
  install, _, folder, *_ = image
  (tmp_path / missing).touch()
  result = install()
  assert result.returncode == 2
  assert "Python 3.11 or newer" in result.stderr
  assert "PYTHON=" in result.stderr
  assert not (folder / ".venv").exists()


def test_an_interpreter_that_is_named_is_not_replaced(image, tmp_path):
  install, calls, folder, *_ = image
  named = str(tmp_path / "image/python3")
  result = install(PYTHON=named)
  assert result.returncode == 2
  assert f"PYTHON={named}" in result.stderr
  assert not [call for call in calls() if call.startswith("uv")]
  assert not (folder / ".venv").exists()


@pytest.mark.parametrize(
  ("arguments", "lock", "extra"),
  [
    ((), None, None),
    (("cpu",), None, None),
    (("cuda",), "requirements-cuda.lock", "jax[cuda13]"),
    (("tpu",), "requirements-tpu.lock", "jax[tpu]"),
    (("cpu", "gcs"), "requirements-gcs.lock", "gcsfs"),
    (("s3",), "requirements-s3.lock", "s3fs"),
  ],
)
def test_each_hardware(image, tmp_path, arguments, lock, extra):
  install, calls, *_ = image
  (tmp_path / "fits").touch()
  result = install(*arguments)
  assert result.returncode == 0, result.stderr
  assert locks(calls())[2:] == ([lock] if lock else [])
  # A machine that no lock was made for.
  (tmp_path / "platform").write_text("3.14 Darwin arm64\n")
  shutil.rmtree(image.folder / ".venv")
  before = len(calls())
  result = install(*arguments)
  assert result.returncode == 0, result.stderr
  assert "installing without hashes" in result.stderr
  later = calls()[before:]
  assert not locks(later)
  assert sum(f" {extra} -c " in call for call in later) == (extra is not None)


def test_new_versions_of_jax_bring_new_ones_of_its_plugin(image, tmp_path):
  install, calls, folder, *_ = image
  (tmp_path / "fits").touch()
  assert install("cuda", "gcs").returncode == 0
  before = len(calls())
  (folder / "constraints.txt").write_text("jax==0.10.3\n")
  assert install().returncode == 0
  assert locks(calls()[before:])[2:] == [
    "requirements-cuda.lock",
    "requirements-gcs.lock",
  ]


def test_other_hardware_is_refused_before_anything_is_made(image):
  install, calls, folder, *_ = image
  result = install("gcs", "rocm")
  assert result.returncode == 2
  assert "'rocm'" in result.stderr
  assert "cpu, cuda, tpu, gcs and s3" in result.stderr
  assert calls() == []
  assert not (folder / ".venv").exists()
