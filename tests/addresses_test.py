"""Addresses are taken where they are tested and refused before the work."""

import pytest

from clap_jax import main
from clap_jax.commands import addresses
from clap_jax.storage import objects

TRAIN = ("train", "--config=configs/pretrain_sprites.py:tiny", "--workdir=w")

# Arguments and what the message must name.
REFUSED = {
  "captions to build with": (
    ("build", "trimmed", "--data_dir=d", "--captions=gs://bucket/c.json"),
    "--captions",
  ),
  "a video": (("predict", "gs://bucket/v.mp4", "--model=m"), "videos"),
  "an export": (
    ("predict", "v.mp4", "--model=m", "--export=gs://bucket/e"),
    "--export",
  ),
  "an index": (("index", "v", "--model=m", "--out=gs://bucket/i"), "--out"),
  "a search": (("search", "a cat", "--index=gs://bucket/i"), "--index"),
  "a server": (("serve", "--model=gs://bucket/m"), "--model"),
  "exported weights": (
    ("export", "--model=gs://bucket/m", "--out=o"),
    "--model",
  ),
  "a sweep": (
    ("sweep", "--config=c.py", "--workdir=gs://bucket/w"),
    "--workdir",
  ),
  "a report": (("report", "--workdir=gs://bucket/w"), "--workdir"),
  "a demo": (("demo", "--workdir=gs://bucket/w"), "--workdir"),
  "a page": (
    ("data", "inspect", "toy", "--data_dir=d", "--out=gs://bucket/p.html"),
    "--out",
  ),
  "another store": ((*TRAIN[:2], "--workdir=az://bucket/w"), "--workdir"),
  "a web page": (
    ("score", "https://host/p.json", "--ground_truth=g", "--protocol=x"),
    "predictions",
  ),
  "a config's key": (
    (*TRAIN, "--config.data.texts=gs://bucket/t.npz"),
    "--config.data.texts",
  ),
  "a list in a config": (
    (*TRAIN, "--config.start.imported=m,gs://bucket/w"),
    "--config.start.imported",
  ),
  "a run on S3": ((*TRAIN[:2], "--workdir=s3://bucket/w"), "--workdir"),
  "no bucket": ((*TRAIN[:2], "--workdir=gs:///w"), "--workdir"),
  "a way out": ((*TRAIN[:2], "--workdir=gs://bucket/../w"), "--workdir"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_takes_no_address_says_so(case, tmp_path, monkeypatch, capsys):
  arguments, named = case
  monkeypatch.chdir(tmp_path)
  try:
    code = main.main(list(arguments))
  except SystemExit as stop:
    code = stop.code
  message = capsys.readouterr().err
  assert code == 2 and named in message and "://" in message, message
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("argument", "extra"),
  [
    ("--config.data.data_dir=gs://bucket/d", "gcs"),
    ("--config.data.data_dir=s3://bucket/d", "s3"),
  ],
)
def test_a_missing_package_is_named(argument, extra, monkeypatch, capsys):
  monkeypatch.setattr(objects.importlib.util, "find_spec", lambda name: None)
  assert main.main([*TRAIN, argument]) == 2
  message = capsys.readouterr().err
  assert argument.partition("=")[0] in message and f"[{extra}]" in message


@pytest.mark.parametrize(
  "arguments",
  [
    ("search", "gs://bucket/x is what", "--index=i"),
    ("predict", "v.mp4", "--model=m", "--query=see https://host"),
  ],
)
def test_texts_may_speak_of_addresses(arguments):
  addresses.check(main.parse(list(arguments)))
