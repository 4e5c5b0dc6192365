"""Lists public checkpoints with address, licence and hash.

The table has a hash only if the publisher states it, in the address or the file
name. For a repository on the Hugging Face Hub it has a revision, for which the
Hub states the hashes. If neither is known, the hash of the first download is
recorded and later downloads must match it.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_IG65M = "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0"
_TSP = "https://github.com/HumamAlwassel/TSP/releases/download/model_weights"
_BOTH_TOWERS = "queries without training, a start of training"
_VIDEO_TOWER = "features, a start of training"


@dataclasses.dataclass(frozen=True)
class File:
  """One file of a checkpoint.

  Attributes:
    name: file name, also in the repository on the Hub.
    address: address of the file; "" for a file of the entry's repository.
    sha256: hexadecimal hash or its first digits; "" if the publisher states
      none.
  """

  name: str
  address: str = ""
  sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
  """One public checkpoint.

  Attributes:
    name: name for `clap get` and --model.
    purpose: short description of the use.
    licence: licence of the weights, as the publisher states it.
    page: web page of the publisher.
    about_bytes: approximate size of the weights; files over twice this size
      are rejected.
    source: key of the importer, as in `clap import --source`.
    weights: alternatives; the first available file is used.
    tokenizer: alternatives, each with all files that it needs.
    configs: optional files.
    repository: repository on the Hub; "" if `weights` has addresses.
    revision: commit of the repository; "" for the newest at first download.
    options: import options other than the defaults.
    clip: clip shape, if the weights do not state it.
    stride_sec: seconds between clips.
    colours: mean and standard deviation of input colours, if no config file
      states them; None for the importer's defaults.
  """

  name: str
  purpose: str
  licence: str
  page: str
  about_bytes: int
  source: str
  weights: tuple[File, ...]
  tokenizer: tuple[tuple[File, ...], ...] = ()
  configs: tuple[File, ...] = ()
  repository: str = ""
  revision: str = ""
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  clip: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  stride_sec: float | None = None
  colours: tuple[tuple[float, float, float], tuple[float, float, float]] | (
    None
  ) = None

  @property
  def place(self) -> str:
    """Returns the address of the weights."""
    if self.repository:
      revision = f" at {self.revision}" if self.revision else ""
      return f"https://huggingface.co/{self.repository}{revision}"
    return self.weights[0].address


# Vocabulary of all CLIP models here, which OpenAI published with the code.
_CLIP_PIECES = File(
  "bpe_simple_vocab_16e6.txt.gz",
  "https://raw.githubusercontent.com/openai/CLIP/"
  "dcba3cb2e2827b402d2701e7e1c7d9fed8a20ef1/clip/bpe_simple_vocab_16e6.txt.gz",
  "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
)
_PAIRS = (File("vocab.json"), File("merges.txt"))
# An image tower encodes single frames, one per second; such a clip lasts as
# long as one frame.
_IMAGES: dict[str, Any] = {
  "options": {"num_frames": 1, "tubelet_frames": 1},
  "clip": {"clip_sec": 0.04},
  "stride_sec": 1.0,
}


def _openai_clip(name: str, *, sha256: str, about_bytes: int) -> Entry:
  return Entry(
    name=f"clip-{name.lower()}",
    purpose=_BOTH_TOWERS,
    licence="MIT",
    page="https://github.com/openai/CLIP",
    about_bytes=about_bytes,
    source="clip",
    weights=(File(f"{name}.pt", f"{_OPENAI}/{sha256}/{name}.pt", sha256),),
    tokenizer=((_CLIP_PIECES,),),
    **_IMAGES,
  )


def _laion_clip(
  name: str,
  *,
  repository: str,
  revision: str,
  about_bytes: int,
  **more: Any,
) -> Entry:
  return Entry(
    name=f"open_clip-{name}",
    purpose=_BOTH_TOWERS,
    licence="MIT",
    page=f"https://huggingface.co/{repository}",
    about_bytes=about_bytes,
    source="open_clip",
    weights=(
      File("open_clip_model.safetensors"),
      File("open_clip_pytorch_model.safetensors"),
      File("open_clip_pytorch_model.bin"),
    ),
    tokenizer=(_PAIRS, (File("tokenizer.json"),), (_CLIP_PIECES,)),
    configs=(File("open_clip_config.json"),),
    repository=repository,
    revision=revision,
    **_IMAGES,
    **more,
  )


def _r2plus1d(name: str, *, address: str, licence: str, page: str) -> Entry:
  file = address.rpartition("/")[2]
  (prefix,) = re.findall(r"-([0-9a-f]{8})\.pth$", file)
  return Entry(
    name=name,
    purpose=_VIDEO_TOWER,
    licence=licence,
    page=page,
    about_bytes=127_000_000 if "r2plus1d_18" in file else 255_000_000,
    source="r2plus1d",
    weights=(File(file, address, prefix),),
  )


def _ig65m(name: str, file: str) -> Entry:
  return _r2plus1d(
    name,
    address=f"{_IG65M}/{file}.pth",
    licence="MIT",
    page="https://github.com/moabitcoin/ig65m-pytorch",
  )


def _tsp(name: str, file: str) -> Entry:
  return _r2plus1d(
    name,
    address=f"{_TSP}/{file}.pth",
    licence="MIT",
    page="https://github.com/HumamAlwassel/TSP",
  )


_TABLE = (
  _openai_clip(
    "ViT-B-32",
    sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    about_bytes=354_000_000,
  ),
  _openai_clip(
    "ViT-B-16",
    sha256="5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    about_bytes=351_000_000,
  ),
  _openai_clip(
    "ViT-L-14",
    sha256="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    about_bytes=933_000_000,
  ),
  _laion_clip(
    "vit-b-32",
    repository="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    revision="1a25a446712ba5ee05982a381eed697ef9b435cf",
    about_bytes=605_000_000,
  ),
  _laion_clip(
    "vit-l-14",
    repository="laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    revision="1627032197142fbe2a7cfec626f4ced3ae60d07a",
    about_bytes=1_711_000_000,
    # From open_clip's table of pretrained weights.
    colours=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
  ),
  _r2plus1d(
    "r2plus1d-18-kinetics",
    address="https://download.pytorch.org/models/r2plus1d_18-91a641e6.pth",
    licence="BSD-3-Clause",
    page="https://github.com/pytorch/vision",
  ),
  _ig65m(
    "r2plus1d-34-ig65m-8", "r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae"
  ),
  _ig65m(
    "r2plus1d-34-ig65m-32", "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9"
  ),
  _ig65m(
    "r2plus1d-34-kinetics-8",
    "r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b",
  ),
  _ig65m(
    "r2plus1d-34-kinetics-32",
    "r2plus1d_34_clip32_ft_kinetics_from_ig65m-ade133f1",
  ),
  _tsp(
    "tsp-activitynet",
    "r2plus1d_34-tsp_on_activitynet-max_gvf-backbone_lr_0.0001-fc_lr_0.002-"
    "epoch_5-0d2cf854",
  ),
  _tsp(
    "tsp-thumos14",
    "r2plus1d_34-tsp_on_thumos14-max_gvf-backbone_lr_0.0001-fc_lr_0.004-"
    "epoch_4-e6a30b2f",
  ),
  _tsp(
    "tac-activitynet",
    "r2plus1d_34-tac_on_activitynet-backbone_lr_0.0001-fc_lr_0.002-epoch_5-"
    "98ccac94",
  ),
  _tsp(
    "tac-thumos14",
    "r2plus1d_34-tac_on_thumos14-backbone_lr_0.00001-fc_lr_0.002-epoch_3-"
    "54b5c8aa",
  ),
  _tsp("tac-kinetics", "r2plus1d_34-tac_on_kinetics-0547130e"),
  Entry(
    name="videomae-b",
    purpose=_VIDEO_TOWER,
    licence="CC-BY-NC-4.0: not for commercial use",
    page="https://huggingface.co/MCG-NJU/videomae-base",
    about_bytes=377_000_000,
    source="videomae",
    weights=(File("model.safetensors"), File("pytorch_model.bin")),
    configs=(File("config.json"),),
    repository="MCG-NJU/videomae-base",
    revision="dc740ceda42fce44faed2ea03c6d447db72f6af9",
  ),
  Entry(
    name="videoprism-b",
    purpose=_VIDEO_TOWER,
    licence="Apache-2.0",
    page="https://huggingface.co/google/videoprism-base-f16r288",
    about_bytes=458_000_000,
    source="videoprism",
    weights=(File("flax_base_f16r288_repeated.npz"),),
    repository="google/videoprism-base-f16r288",
  ),
  Entry(
    name="all-minilm-l6-v2",
    purpose="a text tower to start training",
    licence="Apache-2.0",
    page="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    about_bytes=91_000_000,
    source="bert",
    weights=(File("model.safetensors"), File("pytorch_model.bin")),
    tokenizer=((File("tokenizer.json"),), (File("vocab.txt"),)),
    configs=(File("config.json"),),
    repository="sentence-transformers/all-MiniLM-L6-v2",
    revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    options={"num_heads": 12},
  ),
)
ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _TABLE}


def find(name: str) -> Entry:
  """Returns the entry of a name.

  Raises:
    ValueError: if there is none; the message lists similar names.
  """
  if name in ENTRIES:
    return ENTRIES[name]
  like = similar(name)
  hint = f"did you mean {' or '.join(like)}? " if like else ""
  raise ValueError(
    f"{name!r:.100} is not a name of public weights; {hint}`clap get --list` "
    "prints the names."
  )


def similar(name: str) -> list[str]:
  """Lists names that are similar to an unknown one."""
  return difflib.get_close_matches(name.lower()[:100], ENTRIES, n=3)


def is_name(text: str) -> bool:
  """Returns True if a text is the name of an entry."""
  return text in ENTRIES
