"""`clap predict`, `index` and `search` on names and files of others."""

import csv
import json
import os
import pathlib

import pytest

from clap_jax import main
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import export, model_directory, predict
from clap_jax.public_weights import cache
from tests.data import built_dataset
from tests.inference import toy_model

NAMES = (
  b"good.mp4",
  b"a[/b].mp4",
  b"esc\x1b[31m.mp4",
  b"new\nline.mp4",
  b"no text \xff\xfe.mp4",
  b"=cmd|' calc'!A1.mp4",
)


@pytest.fixture(scope="module")
def model(encoder):
  return toy_model.make_model(encoder)


@pytest.fixture
def clap(model, monkeypatch):
  """Runs a command with the toy model in the place of any directory."""
  monkeypatch.setattr(model_directory, "load_model", lambda *_, **__: model)
  monkeypatch.setattr(encoder_lib, "load_encoder", lambda _: model.encoder)
  monkeypatch.setattr(cache, "existing_directory_of", pathlib.Path)
  return lambda *arguments: main.main([*map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "videos"
  folder.mkdir()
  content = built_dataset.encode_mp4(40)
  for name in NAMES:
    path = pathlib.Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
  (folder / "bad.mp4").write_bytes(b"[/a]bcdefghijklmnop")
  (folder / "notes.txt").write_text("not a video")
  (folder / ".hidden.mp4").write_bytes(content)
  return folder


def check_terminal(text):
  assert "\x1b" not in text and "line.mp4" in text
  assert "a[/b].mp4" in text
  text.encode("utf-8")


def test_no_name_and_no_reason_stops_predict(clap, folder, tmp_path, capsys):
  out, exported = tmp_path / "out.json", tmp_path / "export"
  videos = sorted(folder.rglob("[!.]*.mp4"))
  code = clap(
    "predict", *videos, "--model", "m", "--json", out, "--export", exported
  )
  check_terminal(capsys.readouterr().err)
  assert code == 0
  document = json.loads(out.read_text())
  assert {v["video"] for v in document["videos"]} == {
    str(path) for path in videos if path.name != "bad.mp4"
  }
  assert [e["video"] for e in document["failed"]] == [str(folder / "bad.mp4")]
  assert len(list(exported.iterdir())) == 3 + len(NAMES)
  rows = list(csv.DictReader((exported / "predictions.csv").open(newline="")))
  assert not any(row["video"].startswith("=") for row in rows)
  for path in exported.iterdir():
    assert not {*path.name} & {*"\n\x1b"}
    path.read_text(encoding="utf-8")


def test_no_name_and_no_reason_stops_index_and_search(
  clap, folder, tmp_path, capsys
):
  index = tmp_path / "index"
  made, found = tmp_path / "index.json", tmp_path / "search.json"
  arguments = ("--model", "m", "--out", index, "--json", made)
  assert clap("index", folder, *arguments) == 0
  check_terminal(capsys.readouterr().err)
  document = json.loads(made.read_text())
  assert document["videos"] == len(NAMES)
  assert len(document["failed"]) == 1
  arguments = ("--index", index, "--top", 40, "--json", found)
  assert clap("search", "a [/b] \x1b[31m", *arguments) == 0
  check_terminal(capsys.readouterr().err)
  document = json.loads(found.read_text())
  assert document["method"] == "zero-shot similarity"
  names = {moment["video"] for moment in document["moments"]}
  assert len(names) == len(NAMES)


def test_search_does_not_cut_file_names_off(clap, tmp_path, capsys):
  folder, name = tmp_path / "videos", f"{'long_name_' * 15}.mp4"
  folder.mkdir()
  (folder / name).write_bytes(built_dataset.encode_mp4(24))
  index = tmp_path / "index"
  assert clap("index", folder, "--model", "m", "--out", index) == 0
  capsys.readouterr()
  assert clap("search", "it spins", "--index", index, "--top", 1) == 0
  lines = capsys.readouterr().err.splitlines()
  cells = [line.split("│")[1].strip() for line in lines if "│" in line]
  assert name in "".join(cells)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_export_that_cannot_be_written_stops_before_the_work(
  clap, folder, tmp_path, capsys, kind
):
  (folder / "good.mp4").unlink()  # any work would find that out
  exported = tmp_path / "export"
  exported.mkdir()
  victim = tmp_path / "victim"
  victim.write_text("mine")
  place = exported / "good.html"
  if kind == "file":
    place.write_text("there")
  else:
    place.symlink_to(victim)
  arguments = [folder / "good.mp4", "--model", "m", "--export", exported]
  arguments += ["--overwrite"] if kind == "link" else []
  assert clap("predict", *arguments) == 2
  assert "good.html" in capsys.readouterr().err
  assert victim.read_text() == "mine"
  assert list(exported.iterdir()) == [place]


def test_an_export_that_fails_loses_nothing_else(
  clap, folder, tmp_path, monkeypatch, capsys
):
  def broken(entry):
    raise OSError("no space left [/a]")

  monkeypatch.setattr(export.player, "render", broken)
  out, exported = tmp_path / "out.json", tmp_path / "export"
  code = clap(
    "predict", folder / "good.mp4", "--model", "m",
    "--json", out, "--export", exported,
  )  # fmt: skip
  assert code == 3
  assert "good.html: no space left [/a]" in capsys.readouterr().err
  assert json.loads(out.read_text())["videos"]
  assert (exported / "predictions.csv").is_file()
  assert not (exported / "good.html").exists()


def test_results_are_written_before_they_are_shown(
  clap, folder, tmp_path, monkeypatch
):
  out = tmp_path / "out.json"
  monkeypatch.setattr(
    export, "write", lambda *_, **__: pytest.fail("not yet") if not
    out.is_file() else export.Exported((), ()),
  )  # fmt: skip
  arguments = ("--model", "m", "--json", out, "--export", tmp_path / "export")
  assert clap("predict", folder / "good.mp4", *arguments) == 0


def test_absence_is_printed(clap, monkeypatch, capsys, tmp_path):
  entry = {
    "video": "a.mp4",
    "duration_sec": 4.0,
    "predictions": [
      {"start_sec": 0.0, "end_sec": 1.0, "score": 0.5, "query": "a red star"}
    ],
    "absent": False,
    "absence": {
      "a red star": {"probability": 0.93, "absent": True},
      "a square": {"probability": 0.1, "absent": False},
    },
  }
  monkeypatch.setattr(
    predict, "predict", lambda *_, **__: {"videos": [entry], "failed": []}
  )
  assert clap("predict", "a.mp4", "--model", "m", "--query", "a red star") == 0
  text = " ".join(capsys.readouterr().err.replace("│", " ").split())
  assert "a red star: probably not in this video" in text and "0.93" in text
  assert "a square: probably" not in text
