"""Checkpoints of others: special files, links and manifests that lead out."""

import os

import jax.numpy as jnp
import orjson
import pytest

from clap_jax.training import checkpoint, manifest, workdir, writer


@pytest.fixture
def run(tmp_path):
  directory = tmp_path / "received" / "run"
  directory.mkdir(parents=True)
  params = {"kernel": jnp.ones((4, 3), jnp.float32)}
  checkpoint.write_params(directory, params)
  return directory


def step_of(run):
  return run / checkpoint.CHECKPOINT_DIRECTORY / "0"


def rewritten(run, change):
  """Writes the manifest anew, with a checksum that fits."""
  path = step_of(run) / manifest.MANIFEST_FILE
  body = orjson.loads(path.read_bytes())["body"]
  change(body)
  record = {"body": body, "crc32c": manifest._body_crc32c(body)}
  path.write_bytes(orjson.dumps(record))


def pipe(path, _):
  path.unlink(missing_ok=True)
  os.mkfifo(path)


def device(path, _):
  path.unlink(missing_ok=True)
  path.symlink_to("/dev/zero")


def moved(path, outside):
  """A link to the very bytes that the manifest names."""
  path.rename(outside)
  path.symlink_to(outside)


@pytest.mark.parametrize("kind", [pipe, device, moved])
@pytest.mark.parametrize("name", ["_METADATA", "_sharding", "manifest.json"])
def test_special_files_and_links_are_damage(run, tmp_path, kind, name):
  at = step_of(run)
  path = at / name if name == "manifest.json" else at / "params" / name
  assert path.exists()
  kind(path, tmp_path / "outside")
  with pytest.raises(checkpoint.CheckpointError, match=name):
    checkpoint.restore_params(run)


@pytest.mark.parametrize("kind", [pipe, device])
def test_foreign_special_files_are_damage(run, kind):
  kind(step_of(run) / "params" / "more", None)
  with pytest.raises(checkpoint.CheckpointError, match="foreign files"):
    checkpoint.restore_params(run)


@pytest.mark.parametrize(
  "name", ["../../../../outside", "/etc/passwd", "params/../../../x"]
)
def test_a_manifest_that_leads_out(run, tmp_path, name):
  (tmp_path / "outside").write_bytes(b"x")
  entry = {"size": 1, "crc32c": 0, "sha256": ""}
  rewritten(run, lambda body: body["files"].update({name: entry}))
  with pytest.raises(checkpoint.CheckpointError, match="leads out"):
    checkpoint.restore_params(run)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda b: b["tree"].update(x=[[1 << 39], "float32"]), "arrays of"),
    (lambda b: b["tree"].update(x=[[-1], "float32"]), "describes no files"),
    (lambda b: b["tree"].update(x=[[1] * 99, "float32"]), "describes no files"),
    (lambda b: b["tree"].update(x=[[1], "object"]), "describes no files"),
    (lambda b: b["tree"].update(x=[[1], "f4,f4"]), "describes no files"),
    (lambda b: b["tree"].update(x="f"), "cannot be read|describes no|too many"),
    (lambda b: b.update(tree=[]), "cannot be read"),
    (lambda b: b.update(files=["x"]), "cannot be read"),
    (lambda b: b["files"].update(x=1), "describes no files"),
    (lambda b: b.update(metadata=[]), "describes no files"),
    (
      lambda b: b["tree"].update({"params/kernel": [[4, 4], "float32"]}),
      "stored with shape",
    ),
  ],
)
def test_manifests_of_something_else(run, change, message):
  rewritten(run, change)
  with pytest.raises(checkpoint.CheckpointError, match=message):
    checkpoint.restore_params(run)


@pytest.mark.parametrize(
  "content", [b"[" * 100_000, b"[]", b"null", b"", b'{"body": 1, "crc32c": 1}']
)
def test_manifests_that_are_not_document(run, content):
  (step_of(run) / manifest.MANIFEST_FILE).write_bytes(content)
  with pytest.raises(checkpoint.CheckpointError, match=r"manifest\.json"):
    checkpoint.restore_params(run)


def test_a_step_that_is_a_link_or_no_number_is_none(run, tmp_path):
  step_of(run).rename(tmp_path / "elsewhere")
  step_of(run).symlink_to(tmp_path / "elsewhere")
  (run / checkpoint.CHECKPOINT_DIRECTORY / "²").mkdir()
  (run / checkpoint.CHECKPOINT_DIRECTORY / ("9" * 200)).mkdir()
  with pytest.raises(FileNotFoundError):
    checkpoint.restore_params(run)


def test_nothing_is_written_through_links(run, tmp_path):
  """A received run cannot make another file of the user its own."""
  victim = tmp_path / "victim"
  victim.write_text("precious")
  for name in (workdir.LOCK_FILE, writer.METRICS_FILE, "config.json"):
    (run / name).symlink_to(victim)
    (run / f"{name}.partial").symlink_to(victim)
  with pytest.raises(ValueError, match=r"\.lock"), workdir.locked(run):
    pass
  with pytest.raises(ValueError, match=r"metrics\.jsonl"):
    writer.MetricsWriter(run, step=0)
  with pytest.raises(ValueError, match=r"config\.json"):
    workdir.write_json(run / "config.json", {})
  assert victim.read_text() == "precious"


def test_predictable_temporary_names_are_not_used(run, tmp_path):
  victim = tmp_path / "victim"
  victim.write_text("precious")
  (run / "config.json.partial").symlink_to(victim)
  (run / f"{writer.METRICS_FILE}.partial").symlink_to(victim)
  workdir.write_json(run / "config.json", {"a": 1})
  writer.MetricsWriter(run, step=0).close()
  assert victim.read_text() == "precious"
