"""Readers of received files, each with seeds and a way to change them.

A target is a function of (random numbers, an empty folder) that writes one
changed file there and reads it. Errors that the reader documents are its own
business; anything else is a finding.
"""

import hashlib
import io
import json
import pathlib
import random
import zipfile
from collections.abc import Callable

import crc32c
import h5py
import numpy as np
import orjson
import safetensors.numpy
from tensorflow_datasets.proto import tf_example_pb2

from clap_jax.annotations import own_files, source_files
from clap_jax.data import (
  dataset_files,
  features,
  records,
  tokenizer,
  vocabulary,
)
from clap_jax.interchange import torch_file
from clap_jax.metrics import score
from clap_jax.storage import arrays, framing, tensors
from clap_jax.training import manifest
from tests.fuzz import mutations
from tests.interchange import torch_writer
from tfds_builders.tool_exports import converting
from tfds_builders.trimmed import layouts, templates

Target = Callable[[random.Random, pathlib.Path], None]

ARRAY = np.arange(24, dtype=np.float32).reshape(8, 3)
TARGETS: dict[str, Target] = {}


def target(function: Target) -> Target:
  TARGETS[function.__name__] = function
  return function


def _npy(array=ARRAY) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


def _zip(members: dict[str, bytes], how=zipfile.ZIP_STORED) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", how) as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return buffer.getvalue()


def _write(folder: pathlib.Path, name: str, content: bytes) -> pathlib.Path:
  path = folder / name
  path.write_bytes(content)
  return path


def _torch_seed() -> dict[str, bytes]:
  buffer = io.BytesIO()
  tree = {"model": {"w": ARRAY, "n": ARRAY.astype("<f2")}, "epoch": 3}
  torch_writer.save(buffer, tree)
  with zipfile.ZipFile(buffer) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


TORCH = _torch_seed()


@target
def torch_program(rng, folder):
  """The program of a zip archive, or of an older file."""
  members = dict(TORCH)
  program = mutations.of_bytes(rng, members["archive/data.pkl"])
  members["archive/data.pkl"] = program
  if rng.randrange(3) == 0:
    members["archive/code/a.py"] = b""
  content = _zip(members)
  if rng.randrange(4) == 0:
    magic = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
    system = b"}" + torch_writer.text("little_endian") + b"\x88s"
    head = (b"\x8a\x0a" + magic, b"M\xe9\x03", system)
    content = b"".join(map(torch_writer.program, head)) + program
    content += torch_writer.program(b"]" + torch_writer.text("0") + b"a")
    content += (24).to_bytes(8, "little") + ARRAY.tobytes()
  torch_file.read(_write(folder, "a.pth", content))


@target
def torch_archive(rng, folder):
  content = mutations.of_bytes(rng, _zip(TORCH))
  torch_file.read(_write(folder, "a.pth", content))


SAFETENSORS = safetensors.numpy.save({"a": ARRAY, "b": np.arange(5)})


@target
def safetensors_header(rng, folder):
  length = int.from_bytes(SAFETENSORS[:8], "little")
  if rng.randrange(2):
    content = mutations.of_bytes(rng, SAFETENSORS)
  else:
    header = json.loads(SAFETENSORS[8 : 8 + length])
    text = json.dumps(mutations.of_document(rng, header)).encode()
    content = len(text).to_bytes(8, "little") + text
    content += SAFETENSORS[8 + length :]
  tensors.read(_write(folder, "a.safetensors", content))


@target
def npy(rng, folder):
  seed = _npy(rng.choice((ARRAY, np.array(["a", "b"]), np.float16(1))))
  path = _write(folder, "a.npy", mutations.of_bytes(rng, seed))
  found = rng.choice((arrays.read_npy, arrays.map_npy))(path)
  if found.dtype.kind in "fiu":
    features.read_features(path)


@target
def npz(rng, folder):
  how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
  if rng.randrange(2):
    content = _zip({"x.npy": mutations.of_bytes(rng, _npy())}, how)
  else:
    content = mutations.of_bytes(rng, _zip({"x.npy": _npy()}, how))
  features.read_features(_write(folder, "a.npz", content))


def _hdf5_seeds() -> list[bytes]:
  made = []
  for options in (
    {},
    {"chunks": (3, 2)},
    {"compression": "gzip", "shuffle": True, "chunks": (4, 3)},
    {"compression": "lzf", "fletcher32": True, "chunks": (4, 3)},
  ):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
      file.create_dataset("v/c3d", data=ARRAY, **options)
      file["w"] = h5py.SoftLink("/v")
    made.append(buffer.getvalue())
  return made


HDF5 = _hdf5_seeds()


@target
def hdf5(rng, folder):
  content = mutations.of_bytes(rng, rng.choice(HDF5))
  path = _write(folder, "a.h5", content)
  features.read_features(path, key=rng.choice(("v", "w/c3d", None)))


@target
def csv(rng, folder):
  text = "\n".join(",".join(map(str, row)) for row in ARRAY.tolist())
  content = mutations.of_bytes(rng, f",a,b\n{text}\n".encode())
  features.read_features(_write(folder, "a.csv", content))


def _example() -> bytes:
  example = tf_example_pb2.Example()
  fields = example.features.feature
  for name in ("id", "video"):
    fields[name].bytes_list.value.append(b"x")
  for name in ("fps", "duration_sec"):
    fields[name].float_list.value.append(2.0)
  for name in ("num_frames", "height", "width", "segments/label"):
    fields[name].int64_list.value.append(2)
  for name in ("segments", "captions", "background"):
    fields[f"{name}/start_sec"].float_list.value.append(0.5)
    fields[f"{name}/end_sec"].float_list.value.append(1.5)
  fields["captions/text"].bytes_list.value.append(b"text")
  return example.SerializeToString()


EXAMPLE = _example()


@target
def tfrecord_shard(rng, folder):
  """Bytes of a shard, of its index, or of what a record holds."""
  example = EXAMPLE
  if rng.randrange(3) == 0:
    example = mutations.of_bytes(rng, example)
  framed = [framing.frame_record(content) for content in (example, b"", b"x")]
  places = np.cumsum([0, *map(len, framed[:-1])]).astype("<u8").tobytes()
  shard = b"".join(framed)
  match rng.randrange(3):
    case 0:
      shard = mutations.of_bytes(rng, shard)
    case 1:
      places = mutations.of_bytes(rng, places)
  _write(folder, "a", shard)
  index = folder / "a.idx"
  index.unlink(missing_ok=True)
  if rng.randrange(3):
    index.write_bytes(places)
  source = records.RecordSource(["a"], name="fuzz", folder=folder)
  try:
    source[0]
  finally:
    source.metadata(on_corrupt="skip")
    source.close()


INFO = {
  "name": "toy",
  "version": "1.0.0",
  "fileFormat": "tfrecord",
  "splits": [{"name": "train", "shardLengths": ["2", "2"]}],
}
MANIFEST = {
  "present": 4,
  "missing": ["a"],
  "corrupt": [{"id": "b"}],
  "shards": [{"name": "toy-train", "bytes": 3, "sha256": "x"}],
  "annotated": {"videos": 5},
  "videos": {"c": {}},
}
FEATURES = {"featuresDict": {"pythonClassName": "tensorflow_datasets.X"}}


def _changed_json(rng, document) -> bytes:
  if rng.randrange(3):
    return json.dumps(mutations.of_document(rng, document)).encode()
  return mutations.of_bytes(rng, json.dumps(document).encode())


@target
def dataset_documents(rng, folder):
  (folder / "train").mkdir(exist_ok=True)
  _write(folder, "dataset_info.json", _changed_json(rng, INFO))
  _write(folder, "features.json", _changed_json(rng, FEATURES))
  _write(folder / "train", "manifest.json", _changed_json(rng, MANIFEST))
  for read in (
    lambda: dataset_files.read_info(folder),
    lambda: dataset_files.check_feature_classes(folder),
    lambda: dataset_files.read_manifest(folder, "train"),
    lambda: dataset_files.read_label_names(folder),
  ):
    try:
      read()
    except dataset_files.DatasetError:
      continue


CHECKPOINT = {
  "files": {
    "a": {
      "size": 1,
      "crc32c": crc32c.crc32c(b"x"),
      "sha256": hashlib.sha256(b"x").hexdigest(),
    }
  },
  "tree": {"params/w": [[4, 3], "float32"], "ema/w": [[4, 3], "bfloat16"]},
  "metadata": {"step": 3},
}


@target
def checkpoint_manifest(rng, folder):
  _write(folder, "a", b"x")
  body = mutations.of_document(rng, CHECKPOINT)
  try:
    options = orjson.OPT_SORT_KEYS
    checksum = crc32c.crc32c(orjson.dumps(body, option=options))
    content = orjson.dumps({"body": body, "crc32c": checksum})
  except TypeError:  # wider integers than this writer takes
    content = json.dumps({"body": body, "crc32c": 0}).encode()
  if rng.randrange(3) == 0:
    content = mutations.of_bytes(rng, content)
  _write(folder, manifest.MANIFEST_FILE, content)
  try:
    manifest.verify(folder)
  except manifest.DamagedCheckpointError as error:
    raise ValueError(str(error)) from error


TRUTH = {
  "version": "1.3",
  "taxonomy": [],
  "database": {
    "v": {
      "subset": "validation",
      "duration": 10.0,
      "annotations": [{"segment": [1.0, 3.0], "label": "a"}],
    }
  },
}
PREDICTIONS = {
  "version": "1.3",
  "results": {"v": [{"segment": [1.0, 2.0], "score": 0.5, "label": "a"}]},
  "external_data": {},
}


@target
def scored_files(rng, folder):
  """A file of predictions or of annotations, as `clap score` takes them."""
  truth, predictions = (json.dumps(d).encode() for d in (TRUTH, PREDICTIONS))
  if rng.randrange(2):
    truth = _changed_json(rng, TRUTH)
  else:
    predictions = _changed_json(rng, PREDICTIONS)
  score.score(
    _write(folder, "predictions.json", predictions),
    ground_truth_path=_write(folder, "truth.json", truth),
    protocols=("activitynet",),
  )


TABLE = (
  "video,start,end,label,caption,subset\n"
  'a.mp4,0:01.5,2,"jump, high",one jumps,train\n'
  "b.mp4,00:00:03,4.25,run,,val\n"
)
OWN = {
  "database": {
    "a": {
      "subset": "train",
      "annotations": [{"segment": [1.0, 3.0], "label": "x", "caption": "y"}],
      "captions": {"timestamps": [[0, 1]], "sentences": ["z"]},
    }
  }
}


@target
def own_annotations(rng, folder):
  """A file of own annotations, as `clap build folder` takes it."""
  match rng.randrange(3):
    case 0:
      encoding = rng.choice(("utf-8", "utf-8-sig", "utf-16"))
      content = mutations.of_bytes(rng, TABLE.encode(encoding))
      path = _write(folder, rng.choice(("a.csv", "a.tsv")), content)
    case 1:
      path = _write(folder, "a.json", _changed_json(rng, OWN))
    case 2:
      lines = json.dumps({"id": "a"} | OWN["database"]["a"]).encode()
      path = _write(folder, "a.jsonl", mutations.of_bytes(rng, lines))
  own_files.read(source_files.SourceFiles(path))


EXPORTS = {
  "elan": b"action\t\t00:00:01.000\t1.0\t00:00:03.500\t3.5\tjump\n",
  "boris": (
    b"Observation id,Media file,FPS,Behavior,Behavior type,Time\n"
    b"o,a.mp4,25,jump,START,1.0\no,a.mp4,25,jump,STOP,3.5\n"
  ),
  "labelstudio": json.dumps(
    [
      {
        "video": "a.mp4",
        "videoLabels": [
          {
            "ranges": [{"start": 25, "end": 75}],
            "timelinelabels": ["jump"],
          }
        ],
      }
    ]
  ).encode(),
  "via": json.dumps(
    {
      "project": {"vid_list": ["1"]},
      "attribute": {"1": {"aname": "action", "options": {"0": "jump"}}},
      "file": {"1": {"fid": "1", "fname": "a.mp4", "type": 4}},
      "view": {"1": {"fid_list": ["1"]}},
      "metadata": {"1_a": {"vid": "1", "z": [1.0, 3.5], "av": {"1": "0"}}},
    }
  ).encode(),
  "cvat": (
    b'<?xml version="1.0"?><annotations><meta><task><name>a.mp4</name></task>'
    b'</meta><track id="0" label="jump"><box frame="3" outside="0" xtl="1" '
    b'ytl="1" xbr="2" ybr="2"/><box frame="9" outside="1" xtl="1" ytl="1" '
    b'xbr="2" ybr="2"/></track></annotations>'
  ),
}


@target
def tool_exports(rng, folder):
  """An export of an annotation tool, as `clap convert` takes it."""
  tool = rng.choice(sorted(EXPORTS))
  suffix = {"cvat": "xml", "elan": "txt", "boris": "csv"}.get(tool, "json")
  content = EXPORTS[tool]
  if rng.randrange(8):
    content = mutations.of_bytes(rng, content)
  converting.convert(_write(folder, f"a.{suffix}", content), tool=tool)


def _tokenizer_document() -> dict:
  words = ("[UNK]", "[CLS]", "[SEP]", "a")
  return {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": {"type": "BertNormalizer", "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
      "type": "BertProcessing",
      "sep": ["[SEP]", 2],
      "cls": ["[CLS]", 1],
    },
    "model": {
      "type": "WordPiece",
      "unk_token": "[UNK]",
      "continuing_subword_prefix": "##",
      "max_input_chars_per_word": 100,
      "vocab": {word: index for index, word in enumerate(words)},
    },
  }


@target
def tokenizer_json(rng, folder):
  content = _changed_json(rng, _tokenizer_document())
  path = _write(folder, "tokenizer.json", content)
  vocabulary.load(path).encode(["a text"], length=8)


_MODELS: list[bytes] = []


@target
def sentencepiece_model(rng, folder):
  if not _MODELS:
    texts = ["a square slides in", "a circle fades out"] * 4
    made = tokenizer.train(texts, vocab_size=40, path=folder / "good")
    _MODELS.append(made.model)
  path = _write(folder, "model", mutations.of_bytes(rng, _MODELS[0]))
  vocabulary.load(path).encode(["a square slides"], length=8)


CLIPS = [
  {
    "video": "run/a.mp4",
    "label": "run",
    "person": "P1",
    "subset": "train",
    "captions": ["one runs", {"text": "another"}],
  },
  {"video": "b.mp4", "annotations": [{"segment": [0, 1], "label": "run"}]},
]
TEMPLATES = {
  "templates": ["{person} is {label}"],
  "words": {"label": {"run": "running"}},
}


@target
def trimmed_clips(rng, folder):
  """The annotations of trimmed clips, and templates of their captions."""
  path = _write(folder, "clips.json", _changed_json(rng, CLIPS))
  _write(folder, "templates.json", _changed_json(rng, TEMPLATES))
  listed = layouts.read(source_files.SourceFiles(path), (), fold=1)
  templates.apply(templates.load(folder / "templates.json"), listed)
