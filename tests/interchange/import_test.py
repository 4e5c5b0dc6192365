"""`clap import`: every problem is listed, and what it writes can be trained."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from clap_jax import main
from clap_jax.data import records, vocabulary
from clap_jax.inference import encoder as encoder_lib
from clap_jax.interchange import (
  config_beside,
  export_weights,
  import_weights,
  rules,
  weight_files,
)
from clap_jax.interchange import source as source_lib
from clap_jax.models import frames
from clap_jax.trainers import encoders
from clap_jax.training import weights
from tests.data import built_dataset
from tests.public_weights import stand_ins

CONTEXT = rules.Context({}, patch=(2, 2, 2), max_text_length=4)


def ones(*shape):
  return np.ones(shape, np.float32)


def convert(tensors, made, expected, fillings=()):
  return rules.convert(
    tensors,
    rules=made,
    fillings=fillings,
    expected={name: np.zeros(shape) for name, shape in expected.items()},
    context=CONTEXT,
  )


def test_every_problem_is_listed():
  made = (
    rules.transposed(r"fc\.weight", "fc/kernel"),
    rules.same(r"layer\.(\d)\.bias", r"layers/bias[\1]"),
    rules.same(r"elsewhere", "nowhere"),
    rules.left_out(r"head\..*", "other classes"),
  )
  tensors = {
    "fc.weight": ones(3, 2),
    "layer.0.bias": ones(2),
    "layer.2.bias": ones(2),
    "elsewhere": ones(1),
    "head.weight": ones(5),
    "surprise": ones(4, 4),
  }
  expected = {"fc/kernel": (3, 2), "layers/bias": (2, 2), "norm/scale": (2,)}
  with pytest.raises(ValueError) as caught:
    convert(tensors, made, expected)
  for part in (
    r"no rule for surprise (4, 4)",
    "layers/bias has layers [0, 2] only",
    "there is no parameter nowhere here",
    "nothing gives norm/scale (2,)",
    "fc/kernel would have shape (2, 3), expected (3, 2)",
  ):
    assert part in str(caught.value)
  assert "head.weight" not in str(caught.value)


def test_the_first_rule_that_matches_decides():
  made = (
    rules.left_out(r"a\.drop", "not needed"),
    rules.same(r"a\.(\w+)", r"ours/\1"),
  )
  done = convert(
    {"a.drop": ones(1), "a.keep": ones(2)}, made, {"ours/keep": (2,)}
  )
  assert set(done.weights) == {"ours/keep"}
  assert done.left_out == {"a.drop": "not needed"}


def test_fillings_are_reported_and_never_replace_a_value():
  made = (rules.same("a", "a"),)
  fillings = (rules.Filling("[ab]", 0.5, "not in the source"),)
  done = convert({"a": ones(2)}, made, {"a": (2,), "b": (3,)}, fillings)
  np.testing.assert_array_equal(done.weights["a"], 1.0)
  np.testing.assert_array_equal(done.weights["b"], 0.5)
  assert done.filled == {"b": "not in the source"}


def test_two_keys_for_one_place():
  made = (rules.same("a|b", "a"),)
  with pytest.raises(ValueError, match="a second key, b, becomes a"):
    convert({"a": ones(2), "b": ones(2)}, made, {"a": (2,)})


def test_an_inflated_patch_keeps_what_a_still_image_gives():
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(5, 3, 2, 2)).astype(np.float32)
  image = rng.normal(size=(2, 2, 3)).astype(np.float32)
  (inflated,) = rules.TRANSFORMS["inflated_tubelet"](kernel, CONTEXT)
  tubelet = np.stack([image, image]).reshape(-1)
  np.testing.assert_allclose(
    tubelet @ inflated, np.einsum("oiyx,yxi->o", kernel, image), atol=1e-5
  )


@pytest.mark.parametrize(
  ("name", "message"),
  [("weights.bin", "neither a zip"), ("a.onnx", "unknown kind of weights")],
)
def test_files_that_are_not_weights(tmp_path, capsys, name, message):
  path = tmp_path / name
  path.write_bytes(b"\x80\x02K\x01.")
  code = main.main(
    ["import", str(path), "--source=clip", f"--out={tmp_path / 'out'}"]
  )
  assert code == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_arrays_that_are_damaged(tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, a=ones(64), b=np.array([None]))
  with pytest.raises(ValueError, match=r"a\.npz.*Python objects"):
    weight_files.read(path)
  np.savez(path, a=ones(64))
  assert weight_files.read(path).keys() == {"a"}
  whole = path.read_bytes()
  for damaged in (
    b"",
    whole[:200],
    whole.replace(ones(4).tobytes(), b"x" * 16),
  ):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.npz.* damaged"):
      weight_files.read(path)
  with path.open("wb") as file:
    np.save(file, ones(3))
  with pytest.raises(ValueError, match=r"a\.npz.* damaged"):
    weight_files.read(path)


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.ones((3, 2), np.int8), "fc.weight holds int8, expected floats"),
    (np.full((3, 2), np.nan), "fc.weight holds numbers that are not finite"),
  ],
)
def test_numbers_that_are_not_weights(array, message):
  made = (rules.same(r"fc\.weight", "fc/kernel"),)
  with pytest.raises(ValueError, match=message):
    convert({"fc.weight": array}, made, {"fc/kernel": (3, 2)})


def test_weights_of_another_source(tmp_path, capsys):
  path = tmp_path / "model.safetensors"
  weights.safetensors.numpy.save_file({"something": ones(2)}, path)
  code = main.main(
    ["import", str(path), "--source=r2plus1d", f"--out={tmp_path / 'out'}"]
  )
  assert code == 2
  assert "No R(2+1)D here has [] blocks" in capsys.readouterr().err


def test_damaged_weights_are_noticed(tmp_path):
  weights.write(tmp_path, {"a": ones(3)}, {"kind": "import"})
  path = tmp_path / weights.WEIGHTS_FILE
  body = bytearray(path.read_bytes())
  body[-1] ^= 1
  path.write_bytes(body)
  with pytest.raises(ValueError, match="damaged"):
    weights.read(tmp_path)
  with pytest.raises(FileExistsError):
    weights.write(tmp_path, {"a": ones(3)}, {})


def test_a_config_of_another_kind_is_refused(tmp_path):
  weights.safetensors.numpy.save_file(
    {"a": ones(2)}, tmp_path / "model.safetensors"
  )
  (tmp_path / "config.json").write_text('{"hidden_act": "relu"}')
  with pytest.raises(ValueError, match="hidden_act is 'relu'"):
    import_weights.import_weights(tmp_path, source="bert", out=tmp_path / "out")


@pytest.mark.parametrize(
  ("source", "config", "message"),
  [
    ("open_clip", {"model_cfg": {"quick_gelu": True}}, "quick_gelu is True"),
    ("clip", {"model_cfg": {"quick_gelu": False}}, "quick_gelu is False"),
    ("clip", {"model_cfg": {"embed_dim": 12}}, "quick_gelu is False"),
    ("open_clip", {"preprocess_cfg": {"mean": [0.5, 0.5]}}, r"cfg\.mean is"),
    ("open_clip", {"preprocess_cfg": {"std": [0.5, 0, 0.5]}}, r"cfg\.std is"),
    ("open_clip", {"preprocess_cfg": {"std": "abc"}}, r"cfg\.std is"),
  ],
)
def test_open_clip_s_config_contradicts_the_source(
  tmp_path, source, config, message
):
  weights.safetensors.numpy.save_file(
    {"a": ones(2)}, tmp_path / "open_clip_model.safetensors"
  )
  (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=message):
    import_weights.import_weights(tmp_path, source=source, out=tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_colours_that_are_scaled_in_another_way(tmp_path):
  """Patches and positions give what they give with the config's scale."""
  mean, std = [0.5, 0.4, 0.3], [0.5, 0.25, 0.2]
  tensors = stand_ins.clip_tensors("micro", vocab_size=9, dtype=np.float32)
  weights.safetensors.numpy.save_file(
    tensors, tmp_path / "open_clip_model.safetensors"
  )
  options = source_lib.Options(num_heads=2, num_frames=2)
  config = tmp_path / "open_clip_config.json"
  found = []
  for name, preprocess in (("own", {}), ("other", {"mean": mean, "std": std})):
    config.write_text(json.dumps({"preprocess_cfg": preprocess}))
    import_weights.import_weights(
      tmp_path, source="open_clip", out=tmp_path / name, options=options
    )
    found.append(weights.read(tmp_path / name)[0])
  own, other = found
  colours = np.random.default_rng(0).random((5, 2, 16, 16, 3))

  def embedded(arrays, scale):
    patches = ((colours - scale.mean) / scale.std).reshape(5, -1)
    kernel = arrays["params/video_tower/embed/kernel"]
    places = arrays["params/video_tower/space_positions"]
    return (patches @ kernel)[:, None] + places[1:]

  np.testing.assert_allclose(
    embedded(other, frames.CLIP),
    embedded(own, frames.ColourScale(tuple(mean), tuple(std))),
    atol=1e-4,
  )
  changed = {"video_tower/embed/kernel", "video_tower/space_positions"}
  for name in own.keys() - {f"params/{key}" for key in changed}:
    np.testing.assert_array_equal(own[name], other[name])
  places = "params/video_tower/space_positions"
  np.testing.assert_array_equal(own[places][0], other[places][0])


@pytest.mark.parametrize("source", ["clip", "open_clip"])
def test_open_clip_s_config_agrees_with_the_source(tmp_path, source):
  tensors, options = clip_tensors()
  weights.safetensors.numpy.save_file(
    tensors, tmp_path / "open_clip_model.safetensors"
  )
  config = {
    "model_cfg": {"embed_dim": 12, "quick_gelu": source == "clip"},
    "preprocess_cfg": {
      "mean": [0.48145466, 0.4578275, 0.40821073],
      "std": [0.26862954, 0.26130258, 0.27577711],
    },
  }
  (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
  done = import_weights.import_weights(
    tmp_path, source=source, out=tmp_path / "out", options=options
  )
  assert done.settings["video_tower"] == source


def byte_pairs(path, size):
  """Writes a vocabulary of CLIP's kind with `size` pieces."""
  pieces = ["<|startoftext|>", "<|endoftext|>", "a", "b</w>", "ab</w>"]
  pieces += [f"<|{i}|>" for i in range(size - len(pieces))]
  (path / "vocab.json").write_text(
    json.dumps({piece: index for index, piece in enumerate(pieces)})
  )
  (path / "merges.txt").write_text("#version: 0.2\na b</w>\n")


def test_a_tokenizer_beside_the_weights_or_none(tmp_path, capsys):
  tensors, options = clip_tensors()
  weights.safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
  arguments = [
    "import",
    tmp_path / "a.safetensors",
    "--source=clip",
    f"--num_heads={options.num_heads}",
    f"--json={tmp_path / 'a.json'}",
  ]
  run(*arguments, "--out", tmp_path / "without")
  assert "tokenizer.json (there is no tokenizer" in capsys.readouterr().err
  flags = json.loads((tmp_path / "a.json").read_text())["flags"]
  assert "--config.model.text_tower=clip" in flags
  assert not any("data.tokenizer" in flag for flag in flags)
  byte_pairs(tmp_path, len(tensors["token_embedding.weight"]))
  run(*arguments, "--out", tmp_path / "with")
  assert "no tokenizer" not in capsys.readouterr().err
  flags = json.loads((tmp_path / "a.json").read_text())["flags"]
  name = tmp_path / "with" / "tokenizer.json"
  assert f"--config.data.tokenizer={name}" in flags
  tokens, _ = vocabulary.load(name).encode(["AB"], length=4)
  assert tokens.tolist() == [[0, 4, 1, 0]]


@pytest.mark.parametrize(
  ("config", "size", "num_frames"),
  [(None, 224, 16), ({"image_size": 112, "num_frames": 8}, 112, 8)],
)
def test_videomae_names_the_grid_it_knows(tmp_path, config, size, num_frames):
  pytest.importorskip("torch")
  from tests.interchange import parity_test, torch_modules  # noqa: PLC0415

  module = torch_modules.VideoMae(parity_test.VIDEO, (2, 16, 16))
  weights.safetensors.numpy.save_file(
    parity_test.state_of(torch_modules.draw(module)),
    tmp_path / "model.safetensors",
  )
  if config is not None:
    (tmp_path / "config.json").write_text(json.dumps(config))
  done = import_weights.import_weights(
    tmp_path,
    source="videomae",
    out=tmp_path / "out",
    options=source_lib.Options(num_heads=parity_test.NUM_HEADS),
  )
  assert f"--config.clip.image_size={size}" in done.flags
  assert f"--config.clip.num_frames={num_frames}" in done.flags


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "square", "slides", "in"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
  """A .pth of an R(2+1)D and a directory of a BERT, both drawn."""
  torch = pytest.importorskip("torch")
  from tests.interchange import parity_test, torch_modules  # noqa: PLC0415

  path = tmp_path_factory.mktemp("sources")
  size = parity_test.variants.R2PLUS1D_SIZES["r2plus1d_micro"]
  video = torch_modules.draw(torch_modules.VideoResNet(size))
  torch.save({"model": video.state_dict(), "epoch": 3}, path / "video.pth")
  bert = torch_modules.draw(
    torch_modules.Bert(parity_test.TEXT, vocab=len(WORDS), length=40)
  )
  (path / "bert").mkdir()
  weights.safetensors.numpy.save_file(
    parity_test.state_of(bert), path / "bert" / "model.safetensors"
  )
  (path / "bert" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  (path / "bert" / "config.json").write_text('{"num_attention_heads": 4}')
  return path


def run(*arguments):
  assert main.main([str(argument) for argument in arguments]) == 0


def test_from_public_weights_to_features_and_out_again(sources, tmp_path):
  """import, train from both, extract, export, and the same tower back."""
  built_dataset.write_dataset(tmp_path, num_videos=4)
  video, text = tmp_path / "video", tmp_path / "text"
  flags = []
  for source, path, out in (
    ("r2plus1d", sources / "video.pth", video),
    ("bert", sources / "bert", text),
  ):
    output = tmp_path / f"{source}.json"
    run("import", path, "--source", source, "--out", out, "--json", output)
    flags += json.loads(output.read_text())["flags"]
  assert f"--config.data.tokenizer={text}/tokenizer.json" in flags
  assert "--config.model.video_tower=r2plus1d_micro" in flags
  train = [
    "train",
    "--config=configs/pretrain_sprites.py:tiny",
    *(flag for flag in flags if "start.imported" not in flag),
    f"--config.start.imported={video},{text}",
    "--config.data.dataset=toy/small",
    f"--config.data.data_dir={tmp_path}",
    "--config.data.selection_split=train",
    "--config.data.eval_split=train",
    "--config.data.batch_size=8",
    "--config.clip.num_frames=4",
    "--config.clip.image_size=16",
    "--config.model.motion_gain=0.0",
    "--config.loop.steps=2",
    f"--workdir={tmp_path / 'run'}",
  ]
  run(*train)
  encoder = encoder_lib.load_encoder(tmp_path / "run")
  before = weights.read(video)[0][
    "batch_stats/video_tower/stem/spatial_norm/mean"
  ]
  after = encoder.params["batch_stats"]["video_tower"]["stem"]["spatial_norm"]
  assert np.abs(after["mean"] - before).max() > 0
  # Two steps of this size leave the imported weights close.
  kernel = weights.read(text)[0]["params/text_tower/embedding"]
  moved = encoder.params["params"]["text_tower"]["embedding"] - kernel
  assert 0 < np.abs(moved).max() < 0.05
  run(
    "extract",
    "--model",
    tmp_path / "run",
    "--data",
    "toy/small",
    "--data_dir",
    tmp_path,
    "--split",
    "train",
    "--stride_sec",
    "1.0",
    "--out",
    tmp_path / "features",
  )
  written = list((tmp_path / "features").glob("*.npz"))
  assert len(written) == 4
  with np.load(written[0]) as arrays:
    assert arrays["features"].shape[1] == 12
    assert np.isfinite(arrays["features"]).all()
  run("export", "--model", tmp_path / "run", "--out", tmp_path / "export")
  check_export(encoder, tmp_path / "export")


def check_export(encoder, directory):
  arrays, facts = weights.read(directory)
  assert facts["tokenizer_sha256"] == encoder.tokenizer.hash
  assert facts["metrics"] and facts["config"]["trainer"] == "pretrain"
  assert "git_revision" in facts
  _, _, named = encoders.flag_of("vocab_size", 8, directory).partition("=")
  assert vocabulary.load(named).hash == encoder.tokenizer.hash
  tower = export_weights.load_tower(directory, export_weights.TEXT_FILE)
  tokens, mask = encoder.tokenizer.encode(["the square slides"], length=40)
  kept = {name: arrays[name] for name in tower.names}
  vector = np.asarray(tower.call(kept, tokens, mask))
  np.testing.assert_allclose(np.linalg.norm(vector, axis=-1), 1, rtol=1e-5)
  path = directory / export_weights.VIDEO_FILE
  path.write_bytes(path.read_bytes() + b"x")
  with pytest.raises(ValueError, match="damaged"):
    export_weights.load_tower(directory, export_weights.VIDEO_FILE)


def test_another_tower_than_the_weights_are_for(sources, tmp_path, capsys):
  built_dataset.write_dataset(tmp_path, num_videos=2)
  dataset = records.open_dataset(tmp_path, "toy/small")
  assert len(dataset.split("train")) == 2
  import_weights.import_weights(
    sources / "bert",
    source="bert",
    out=tmp_path / "text",
    options=source_lib.Options(max_text_length=8),
  )
  capsys.readouterr()
  code = main.main(
    [
      "train",
      "--config=configs/pretrain_sprites.py:tiny",
      "--config.data.dataset=toy/small",
      f"--config.data.data_dir={tmp_path}",
      f"--config.data.tokenizer={tmp_path / 'text' / 'tokenizer.json'}",
      "--config.data.selection_split=train",
      "--config.data.eval_split=train",
      f"--config.start.imported={tmp_path / 'text'}",
      f"--workdir={tmp_path / 'run'}",
    ]
  )
  assert code == 2
  message = capsys.readouterr().err
  assert "--config.model.text_tower=bert (here: transformer)" in message
  assert "--config.model.max_text_length=8 (here: 40)" in message
  assert not (tmp_path / "run").exists()


def clip_tensors():
  """(tensors of a drawn CLIP under OpenAI's names, options that fit)."""
  pytest.importorskip("torch")
  from tests.interchange import parity_test, torch_modules  # noqa: PLC0415

  module = torch_modules.Clip(parity_test.VIDEO, parity_test.TEXT, quick=False)
  options = source_lib.Options(num_heads=parity_test.NUM_HEADS)
  return parity_test.state_of(torch_modules.draw(module)), options


@pytest.mark.parametrize(
  "prefix", ["", "module.", "state_dict.", "state_dict.module."]
)
@pytest.mark.parametrize("text", ["", "text."])
def test_checkpoints_of_open_clip(prefix, text):
  """Under each prefix the same weights; what is of the training stays."""
  tensors, options = clip_tensors()
  source = import_weights.SOURCES["open_clip"]
  settings, plain = import_weights.convert(tensors, source, options)
  assert plain.weights["params/logit_bias"] == -10.0
  assert "params/logit_bias" in plain.filled
  renamed = {
    prefix + ("" if re.match("visual|logit", name) else text) + name: tensor
    for name, tensor in tensors.items()
  }
  renamed[f"{prefix}logit_bias"] = np.float32(-7.5)
  renamed["optimizer.state.0.exp_avg"] = ones(3)
  renamed["epoch"] = ones(1)
  # TorchScript keeps what its blocks have as plain attributes, too.
  renamed["transformer.resblocks.0.attn_mask"] = ones(9, 9)
  found, done = import_weights.convert(renamed, source, options)
  assert found == settings
  assert set(done.left_out) == {
    "optimizer.state.0.exp_avg",
    "epoch",
    "transformer.resblocks.0.attn_mask",
  }
  assert done.weights.keys() == plain.weights.keys()
  assert done.weights["params/logit_bias"] == -7.5
  for name in done.weights.keys() - {"params/logit_bias"}:
    np.testing.assert_array_equal(done.weights[name], plain.weights[name])


@pytest.mark.parametrize(
  ("key", "shape", "message"),
  [
    ("positional_embedding", (), r"positional_embedding has shape \(\), exp"),
    ("visual.conv1.weight", (3, 3), r"has shape \(3, 3\), expected 4 axes"),
    ("visual.proj", (4,), None),  # the text's says the same
    (
      "transformer.resblocks.0.attn.in_proj_weight",
      (64, 64),
      r"in_proj_weight \(64, 64\): .*equal division",
    ),
    (
      "transformer.resblocks.1.ln_1.weight",
      (5,),
      r"layers of params/text_tower.*scale have different shapes: .*\(5,\)",
    ),
  ],
)
def test_shapes_that_the_source_does_not_have(key, shape, message):
  tensors, options = clip_tensors()
  assert key in tensors
  source = import_weights.SOURCES["open_clip"]
  with pytest.raises(ValueError, match=message):
    import_weights.convert({**tensors, key: ones(*shape)}, source, options)


def test_token_types_that_are_missing():
  bert = import_weights.SOURCES["bert"]
  names = {
    "embeddings.word_embeddings.weight": (9, 64),
    "embeddings.position_embeddings.weight": (8, 64),
    "encoder.layer.0.intermediate.dense.weight": (256, 64),
    "encoder.layer.1.intermediate.dense.weight": (256, 64),
  }
  tensors = {name: ones(*shape) for name, shape in names.items()}
  options = source_lib.Options(num_heads=4)
  message = "expected one embeddings.token_type_embeddings.weight"
  with pytest.raises(ValueError, match=message):
    import_weights.convert(tensors, bert, options)


@pytest.mark.parametrize(
  "option", ["max_text_length", "num_frames", "tubelet_frames", "num_heads"]
)
def test_options_out_of_range(tmp_path, option):
  (tmp_path / "a.safetensors").touch()
  options = source_lib.Options(**{option: 0})
  with pytest.raises(
    ValueError, match=rf"{option}: must be at least \d, got 0"
  ):
    import_weights.import_weights(
      tmp_path / "a.safetensors",
      source="bert",
      out=tmp_path / "out",
      options=options,
    )
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tower", ["video", "text"])
@pytest.mark.parametrize("alone", [False, True])
def test_one_tower_of_two(tower, alone):
  """The same weights, whether or not the file has the other tower as well."""
  tensors, options = clip_tensors()
  source = import_weights.SOURCES["open_clip"]
  settings, both = import_weights.convert(tensors, source, options)
  if alone:
    is_video = lambda key: key.startswith("visual.")  # noqa: E731
    tensors = {
      key: tensor
      for key, tensor in tensors.items()
      if is_video(key) == (tower == "video") and key != "logit_scale"
    }
  options = dataclasses.replace(options, tower=tower)
  found, one = import_weights.convert(tensors, source, options)
  own = {key for key in both.weights if key.startswith(f"params/{tower}_")}
  assert one.weights.keys() == own
  for name in own:
    np.testing.assert_array_equal(one.weights[name], both.weights[name])
  assert found.items() <= settings.items()
  other = {"video": "text", "text": "video"}[tower]
  assert f"{tower}_tower" in found and f"{other}_tower" not in found
  assert bool(one.left_out) == (not alone)


def test_a_tower_that_the_source_lacks(sources, tmp_path):
  with pytest.raises(ValueError, match="r2plus1d has no text tower"):
    import_weights.import_weights(
      sources / "video.pth",
      source="r2plus1d",
      out=tmp_path / "out",
      options=source_lib.Options(tower="text"),
    )


def test_safetensors_of_bfloat16(tmp_path):
  torch = pytest.importorskip("torch")
  import safetensors.torch  # noqa: PLC0415  (needs torch)

  values = torch.arange(6.0).reshape(2, 3)
  tensors = {"a": values.bfloat16(), "b": values}
  safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
  read = weight_files.read(tmp_path / "a.safetensors")
  for name in tensors:
    assert read[name].dtype == np.float32
    np.testing.assert_array_equal(read[name], values)


def test_safetensors_of_a_type_that_is_not_read(tmp_path):
  torch = pytest.importorskip("torch")
  import safetensors.torch  # noqa: PLC0415  (needs torch)

  tensors = {"a": torch.ones(2, dtype=torch.float8_e4m3fn)}
  safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
  with pytest.raises(ValueError, match=r"a\.safetensors.*F8_E4M3"):
    weight_files.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("[]", r"config\.json: expected an object"),
    ("{", r"config\.json is not JSON"),
    ('{"num_attention_heads": [1]}', r"num_attention_heads is \[1\]"),
    ('{"model_type": "clip", "text_config": {}}', "hidden_act is 'quick_gelu'"),
  ],
)
def test_an_invalid_config_beside_the_weights(tmp_path, text, message):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match=message):
    config_beside.with_heads(
      source_lib.Options(),
      tmp_path / "model.safetensors",
      source=import_weights.SOURCES["open_clip"],
    )


def test_a_config_omits_the_tower_that_is_left_out(tmp_path):
  (tmp_path / "config.json").write_text(
    json.dumps(
      {
        "text_config": {"hidden_act": "gelu", "num_attention_heads": 12},
        "vision_config": {"hidden_act": "tanh", "num_attention_heads": 16},
      }
    )
  )
  file, source = tmp_path / "a", import_weights.SOURCES["open_clip"]
  text = source_lib.Options(tower="text")
  options = config_beside.with_heads(text, file, source=source)
  assert options.num_heads == 12
  with pytest.raises(ValueError, match=r"vision_config\.hidden_act is 'tanh'"):
    config_beside.with_heads(source_lib.Options(), file, source=source)


def test_a_tokenizer_without_a_text_tower(sources, tmp_path):
  shutil.copy(sources / "video.pth", tmp_path)
  shutil.copy(sources / "bert" / "vocab.txt", tmp_path)
  shared = {"path": tmp_path / "video.pth", "source": "r2plus1d"}
  with pytest.raises(ValueError, match="No text tower is imported"):
    import_weights.import_weights(
      **shared, out=tmp_path / "a", tokenizer=tmp_path / "vocab.txt"
    )
  done = import_weights.import_weights(**shared, out=tmp_path / "b")
  assert done.num_parameters > 0  # the file beside it is of something else
