"""`clap get`: fetched from stand-ins of the publishers, checked, imported."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest

from clap_jax import main
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import model_directory
from clap_jax.interchange import get_public
from clap_jax.public_weights import cache, download, table
from clap_jax.storage import output
from clap_jax.training import weights
from tests.public_weights import server, stand_ins

MICRO = {"num_heads": 2}
OPEN_CLIP = "open_clip-vit-b-32"
OPENAI = "clip-vit-b-32"


def set_entry(monkeypatch, name, **changes) -> table.Entry:
  entry = table.ENTRIES[name]
  options = {**entry.options, **changes.pop("options", {})}
  changed = dataclasses.replace(entry, options=options, **changes)
  monkeypatch.setitem(table.ENTRIES, name, changed)
  return changed


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
  monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
  return tmp_path / "cache"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """Stand-ins of what the publishers serve, by folder."""
  root = tmp_path_factory.mktemp("published")
  stand_ins.write_open_clip(root / "laion", "micro")
  openai = root / "openai"
  openai.mkdir()
  size = stand_ins.write_pieces(openai / "bpe_simple_vocab_16e6.txt.gz")
  stand_ins.write_torchscript(
    openai / "ViT-B-32.pt", stand_ins.clip_tensors("micro", vocab_size=size)
  )
  (root / "torchvision").mkdir()
  stand_ins.write_state_dict(
    root / "torchvision" / "r2plus1d_18-91a641e6.pth",
    stand_ins.r2plus1d_tensors("r2plus1d_micro"),
  )
  minilm = root / "minilm"
  minilm.mkdir()
  words = stand_ins.write_word_pieces(minilm / "vocab.txt")
  stand_ins.write_shards(
    minilm, stand_ins.bert_tensors("micro", vocab_size=words), 3
  )
  config = {"hidden_act": "gelu", "num_attention_heads": 2}
  (minilm / "config.json").write_text(json.dumps(config))
  return root


@pytest.fixture
def site(published, tmp_path):
  shutil.copytree(published, tmp_path / "served")
  with server.serving(tmp_path / "served") as found:
    yield found


def sha256(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*arguments, out=None, code=0) -> dict:
  """Returns the JSON output of a command."""
  words = [str(argument) for argument in arguments]
  if out is not None:
    words += ["--json", str(out)]
  assert main.main(words) == code
  return json.loads(out.read_text()) if out is not None and not code else {}


# The table.


def test_the_table_is_in_order():
  for name, entry in table.ENTRIES.items():
    assert name == entry.name == name.lower()
    assert entry.licence and entry.page.startswith("https://")
    assert bool(entry.repository) != bool(entry.weights[0].address)
    assert entry.revision in ("", entry.revision.lower())
    assert len(entry.revision) in (0, 40)
    files = [*entry.weights, *entry.configs]
    files += [file for choice in entry.tokenizer for file in choice]
    for file in files:
      if file.address:
        download.check_address(file.address)
        assert file.sha256
    if not entry.repository:
      # The publisher's own address has what its hash is checked against.
      assert entry.weights[0].sha256 in entry.weights[0].address
  wanted = {"clip-vit-b-32", "clip-vit-b-16", "clip-vit-l-14"}
  assert wanted <= table.ENTRIES.keys()


def test_unknown_names(capsys):
  run("get", "clip-vit-b32", code=2)
  assert "did you mean clip-vit-b-32" in capsys.readouterr().err
  run("get", code=2)
  run("get", "--list", OPENAI, code=2)


def test_the_list(site, tmp_path, monkeypatch, capsys):
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  before = run("get", "--list", out=tmp_path / "a.json")["models"]
  assert [entry["name"] for entry in before] == list(table.ENTRIES)
  assert not any(entry["directory"] for entry in before)
  run("get", OPEN_CLIP, "--from", f"{site.address}/laion")
  after = run("get", "--list", out=tmp_path / "b.json")["models"]
  there = {entry["name"]: entry for entry in after if entry["directory"]}
  assert set(there) == {OPEN_CLIP}
  expected = sha256(site.folder / "laion" / "open_clip_model.safetensors")
  assert there[OPEN_CLIP]["fetched_sha256"] == expected
  assert there[OPEN_CLIP]["sha256"] is None
  assert OPENAI in capsys.readouterr().err


# The formats.


def test_torchscript_by_https_form(site, tmp_path, monkeypatch, capsys):
  """As OpenAI's: TorchScript, and the hash in the address."""
  folder = site.folder / "openai"
  pieces = folder / "bpe_simple_vocab_16e6.txt.gz"
  hashes = {path.name: sha256(path) for path in folder.iterdir()}
  set_entry(
    monkeypatch,
    OPENAI,
    options=MICRO,
    weights=tuple(
      table.File(name, f"{site.address}/openai/{name}", hashes[name])
      for name in ("ViT-B-32.pt",)
    ),
    tokenizer=(
      (
        table.File(
          pieces.name,
          f"{site.address}/openai/{pieces.name}",
          hashes[pieces.name],
        ),
      ),
    ),
  )
  site.cuts["/openai/ViT-B-32.pt"] = [10_000]
  document = run("get", OPENAI, out=tmp_path / "a.json")
  assert document["sha256"] == hashes["ViT-B-32.pt"]
  assert document["licence"] == "MIT"
  assert len(site.asked_for("/openai/ViT-B-32.pt")) == 2
  shown = capsys.readouterr().err
  assert shown.index("licence: MIT") < shown.index("parameters written")
  loaded = encoder_lib.load_encoder(OPENAI)
  assert str(loaded.directory) == document["directory"]
  assert loaded.clip.num_frames == 1
  assert model_directory.load_model(OPENAI).stride_sec == 1.0
  frames = np.zeros((2, 1, 32, 32, 3), np.uint8)
  assert loaded.clip_features(frames, 2).shape == (2, 16)
  assert np.isfinite(loaded.embed_texts(["a long jump"])).all()


def test_state_dict(site, tmp_path, monkeypatch):
  name = "r2plus1d-18-kinetics"
  file = table.ENTRIES[name].weights[0].name
  expected = sha256(site.folder / "torchvision" / file)
  document = run(
    *("get", name, "--from", f"{site.address}/torchvision/{file}"),
    *("--sha256", expected.upper()),
    out=tmp_path / "a.json",
  )
  assert document["sha256"] == expected
  arrays, facts = weights.read(document["directory"])
  assert facts["settings"]["video_tower"] == "r2plus1d_micro"
  assert facts["public"]["name"] == name
  assert any(key.startswith("params/video_tower/stem") for key in arrays)
  with pytest.raises(ValueError, match="text_tower"):
    model_directory.load_model(name)


def test_sharded_by_the_hub(site, tmp_path, monkeypatch):
  name = "all-minilm-l6-v2"
  set_entry(
    monkeypatch,
    name,
    options=MICRO,
    repository="sentence-transformers/minilm",
    revision="",
  )
  monkeypatch.setenv("HF_ENDPOINT", site.address)
  document = run("get", name, out=tmp_path / "a.json")
  assert document["revision"] == site.commit
  shards = [f for f in document["files"] if "-of-" in f["name"]]
  assert len(shards) == 3
  assert {f["hash_stated_by"] for f in document["files"]} == {"the Hub"}
  arrays, _ = weights.read(document["directory"])
  assert arrays["params/text_tower/embedding"].shape[1] == 16


def test_the_hub_pins_a_revision(site, monkeypatch, tmp_path, capsys):
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO, repository="laion/laion")
  monkeypatch.setenv("HF_ENDPOINT", site.address)
  revision = table.ENTRIES[OPEN_CLIP].revision
  document = run("get", OPEN_CLIP, out=tmp_path / "a.json")
  asked = {path for path, _ in site.requests}
  assert f"/api/models/laion/laion/revision/{revision}" in asked
  weights_file = "open_clip_model.safetensors"
  assert f"/laion/laion/resolve/{site.commit}/{weights_file}" in asked
  assert document["source"] == "https://huggingface.co/laion/laion"
  # What is there is of one revision.
  other = "f" * 40
  run("get", OPEN_CLIP, "--revision", other, code=2)
  assert other in capsys.readouterr().err
  run("get", OPEN_CLIP, "--revision", site.commit)


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    (OPENAI, ("--revision", "0" * 40), "--revision"),
    (OPEN_CLIP, ("--revision", "0" * 40, "--from", "."), "--revision"),
    (OPEN_CLIP, ("--num_frames", "4"), "--num_frames"),
    (OPEN_CLIP, ("--from", "/nowhere/at/all"), "/nowhere/at/all"),
    (OPEN_CLIP, ("--from", "http://example.invalid/x"), "https"),
    (OPEN_CLIP, ("--from", ".", "--sha256", "12"), "--sha256"),
  ],
)
def test_arguments_that_do_not_fit(name, arguments, message, capsys):
  run("get", name, *arguments, code=2)
  assert message in capsys.readouterr().err


def test_the_hub_lacks_it(site, monkeypatch, capsys):
  monkeypatch.setenv("HF_ENDPOINT", site.address)
  run("get", OPEN_CLIP, code=2)
  assert "laion/CLIP-ViT-B-32" in capsys.readouterr().err


def test_an_unreachable_hub(tmp_path, monkeypatch, capsys):
  with server.serving(tmp_path) as gone:
    pass
  monkeypatch.setenv("HF_ENDPOINT", gone.address)
  run("get", OPEN_CLIP, code=3)
  assert "--from" in capsys.readouterr().err
  monkeypatch.setenv("HF_ENDPOINT", "http://example.invalid")
  run("get", OPEN_CLIP, code=2)


def test_colours_that_the_table_states(site, monkeypatch):
  """LAION's ViT-L/14 alone was trained on colours of another scale."""
  kernels = []
  for name in (OPEN_CLIP, "open_clip-vit-l-14"):
    set_entry(monkeypatch, name, options=MICRO)
    run("get", name, "--from", site.folder / "laion")
    arrays, _ = weights.read(cache.encoder_of(name))
    kernels.append(arrays["params/video_tower/embed/kernel"])
  red = np.s_[::3]
  np.testing.assert_allclose(
    kernels[1][red], kernels[0][red] * (0.26862954 / 0.5), rtol=1e-5
  )


# Mirrors and folders.


@pytest.mark.parametrize("how", ["folder", "file", "address", "base"])
def test_places(site, tmp_path, monkeypatch, how):
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  folder = site.folder / "laion"
  file = "open_clip_model.safetensors"
  place = {
    "folder": folder,
    "file": folder / file,
    "address": f"{site.address}/laion/{file}",
    "base": f"{site.address}/laion/",
  }[how]
  document = run("get", OPEN_CLIP, "--from", place, out=tmp_path / "a.json")
  assert document["sha256"] == sha256(folder / file)
  assert document["source"].rstrip("/") == str(place).rstrip("/")
  stated = {f["name"]: f["hash_stated_by"] for f in document["files"]}
  assert stated[file].startswith("no publisher")


def test_wrong_bytes_are_removed_unread(
  site, monkeypatch, capsys, cache_folder
):
  """Weights of random numbers cannot have the hash of OpenAI's."""
  entry = table.ENTRIES[OPENAI]
  place = f"{site.address}/openai"
  monkeypatch.setattr(
    get_public.import_weights, "import_weights", lambda *_, **__: 1 / 0
  )
  run("get", OPENAI, "--from", place, code=2)
  err = capsys.readouterr().err
  pieces = site.folder / "openai" / "bpe_simple_vocab_16e6.txt.gz"
  assert sha256(pieces) in err and "924691ac" in err
  run(
    *("get", OPENAI, "--from", f"{place}/ViT-B-32.pt"),
    *("--sha256", f"{pieces.name}={sha256(pieces)}"),
    code=2,
  )
  err = capsys.readouterr().err
  assert entry.weights[0].sha256 in err
  left = [p.name for p in (cache_folder / OPENAI / "files").iterdir()]
  assert left == [pieces.name]
  assert not cache.is_there(OPENAI)


def test_another_name_does_not_escape_the_hash(site, tmp_path, capsys):
  source = site.folder / "openai" / "ViT-B-32.pt"
  pieces = site.folder / "openai" / "bpe_simple_vocab_16e6.txt.gz"
  source.rename(source.with_name("other.pt"))
  run(
    *("get", OPENAI, "--from", f"{site.address}/openai/other.pt"),
    *("--sha256", f"{pieces.name}={sha256(pieces)}"),
    code=2,
  )
  assert table.ENTRIES[OPENAI].weights[0].sha256 in capsys.readouterr().err


def test_the_first_download_is_trusted(site, monkeypatch, capsys, cache_folder):
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  place = f"{site.address}/laion"
  run("get", OPEN_CLIP, "--from", place)
  first = sha256(site.folder / "laion" / "open_clip_model.safetensors")
  assert first in capsys.readouterr().err
  shutil.rmtree(cache_folder / OPEN_CLIP / "encoder")
  shutil.rmtree(cache_folder / OPEN_CLIP / "files")
  path = site.folder / "laion" / "open_clip_model.safetensors"
  body = bytearray(path.read_bytes())
  body[-1] ^= 1
  path.write_bytes(body)
  run("get", OPEN_CLIP, "--from", place, code=2)
  err = capsys.readouterr().err
  assert first in err and "first download" in err


def test_cached_files_need_no_network(site, monkeypatch, tmp_path, capsys):
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  run("get", OPEN_CLIP, "--from", f"{site.address}/laion")
  num_requests = len(site.requests)
  document = run("get", OPEN_CLIP, out=tmp_path / "a.json")
  assert "already" in capsys.readouterr().err
  # Another import is made of the same files.
  other = run(
    *("get", OPEN_CLIP, "--out", tmp_path / "other"),
    *("--num_frames", "4", "--tubelet_frames", "2"),
    out=tmp_path / "b.json",
  )
  assert len(site.requests) == num_requests
  assert other["directory"] == str(tmp_path / "other")
  assert other["sha256"] == document["sha256"]
  assert "--config.clip.num_frames=4" in other["flags"]
  loaded = encoder_lib.load_encoder(tmp_path / "other")
  assert loaded.clip.num_frames == 4 and loaded.stride_sec is None
  run("get", OPEN_CLIP, "--out", tmp_path / "other", code=2)
  run("get", OPEN_CLIP, "--sha256", "0" * 64, code=2)


def test_a_damaged_file_is_fetched_again(site, monkeypatch, cache_folder):
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  place = f"{site.address}/laion"
  run("get", OPEN_CLIP, "--from", place)
  shutil.rmtree(cache_folder / OPEN_CLIP / "encoder")
  file = cache_folder / OPEN_CLIP / "files" / "open_clip_model.safetensors"
  file.write_bytes(b"damaged")
  site.requests.clear()
  run("get", OPEN_CLIP, "--from", place)
  assert site.asked_for("/laion/open_clip_model.safetensors") == [None]
  assert not site.asked_for("/laion/merges.txt") or cache.is_there(OPEN_CLIP)


def test_files_that_are_missing(site, monkeypatch, capsys):
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  (site.folder / "laion" / "merges.txt").unlink()
  run("get", OPEN_CLIP, "--from", f"{site.address}/laion", code=2)
  assert "vocab.json and merges.txt" in capsys.readouterr().err
  run("get", OPEN_CLIP, "--from", f"{site.address}/minilm", code=2)
  set_entry(monkeypatch, OPEN_CLIP, tokenizer=())
  run("get", OPEN_CLIP, "--from", f"{site.address}/torchvision", code=2)
  assert "open_clip_model.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
  "index",
  [
    "{}",
    "[1]",
    '{"weight_map": {"a": "../b.safetensors"}}',
    '{"weight_map": {"a": "b.txt"}}',
    '{"weight_map": {"a": "c.bin"}}',
  ],
)
def test_an_index_that_cannot_be_followed(site, monkeypatch, index):
  name = "all-minilm-l6-v2"
  path = site.folder / "minilm" / "model.safetensors.index.json"
  path.write_text(index)
  run("get", name, "--from", f"{site.address}/minilm", code=2)


def test_a_damaged_record(site, monkeypatch, cache_folder, capsys):
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  run("get", OPEN_CLIP, "--from", site.folder / "laion")
  record = cache_folder / OPEN_CLIP / "source.json"
  record.write_text('{"files": [{"name": "../../x", "sha256": 1}]}')
  run("get", OPEN_CLIP, code=2)
  assert "source.json" in capsys.readouterr().err


def test_a_link_in_the_cache_is_refused(site, monkeypatch, cache_folder):
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  cache_folder.mkdir()
  (cache_folder / OPEN_CLIP).symlink_to(site.folder)
  run("get", OPEN_CLIP, "--from", site.folder / "laion", code=2)


def test_two_at_a_time(site, monkeypatch):
  """One fetches, the other waits and finds it there."""
  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  waited = []

  def get(_):
    return get_public.get(
      OPEN_CLIP,
      place=f"{site.address}/laion",
      on_wait=lambda: waited.append(1),
    )

  # A lock belongs to the open file: threads have their own, as processes do.
  with futures.ThreadPoolExecutor(2) as pool:
    found = list(pool.map(get, range(2)))
  assert sorted(got.imported is None for got in found) == [False, True]
  assert len({got.sha256 for got in found}) == len(waited) == 1
  assert len(site.asked_for("/laion/open_clip_model.safetensors")) == 1


# Names in the place of directories.


def test_a_name_that_was_not_fetched(tmp_path, capsys):
  video = tmp_path / "a.mp4"
  video.touch()
  for command in (
    ("predict", video, "--model", OPENAI, "--query", "a"),
    ("index", tmp_path, "--model", OPENAI, "--out", tmp_path / "index"),
    ("serve", "--model", OPENAI),
    ("extract", "--model", OPENAI, "--data", "a", "--out", tmp_path / "o"),
  ):
    run(*command, code=2)
    assert f"clap get {OPENAI}" in capsys.readouterr().err, command
  for load in (model_directory.load_model, encoder_lib.load_encoder):
    with pytest.raises(FileNotFoundError, match=f"clap get {OPENAI}"):
      load(OPENAI)


def test_a_folder_of_the_name_comes_first(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / OPENAI).mkdir()
  assert cache.directory_of(OPENAI) == pathlib.Path(OPENAI)


@pytest.mark.parametrize("command", ["predict", "index", "serve", "extract"])
def test_a_missing_model_is_answered_without_jax(command, tmp_path):
  arguments = {
    "predict": ["x.mp4", "--query", "a"],
    "index": [str(tmp_path), "--out", "o"],
    "serve": [],
    "extract": ["--data", "a", "--out", "o"],
  }[command]
  script = (
    "import sys\nfrom clap_jax import main\n"
    f"code = main.main({[command, '--model', 'nowhere', *arguments]!r})\n"
    "assert code == 2 and 'jax' not in sys.modules\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert "nowhere" in done.stderr


def test_training_starts_from_a_name(site, monkeypatch):
  from clap_jax.trainers import encoders  # noqa: PLC0415

  set_entry(monkeypatch, OPEN_CLIP, options=MICRO)
  named = encoders.StartConfig(workdir="", parameters=(), imported=OPEN_CLIP)
  with pytest.raises(FileNotFoundError, match="clap get"):
    _ = named.directories
  run("get", OPEN_CLIP, "--from", site.folder / "laion")
  assert named.directories == (str(cache.encoder_of(OPEN_CLIP)),)


def test_rename_replaces_whole(tmp_path):
  for name in "ab":
    output.write_text(tmp_path / name, name)
  output.move(tmp_path / "a", tmp_path / "b")
  assert [p.name for p in tmp_path.iterdir()] == ["b"]
  (tmp_path / "c").symlink_to(tmp_path / "b")
  output.write_text(tmp_path / "d", "d")
  with pytest.raises(output.OutputError):
    output.move(tmp_path / "d", tmp_path / "c")
