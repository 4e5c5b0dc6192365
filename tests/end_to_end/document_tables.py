"""How the commands of the documents are run in a test: smaller, or not at all.

A command is run as it stands but for SMALLER and EXTRA. What cannot be run here
is named in NOT_RUN with the reason; nothing else is left out.
"""

import dataclasses
from collections.abc import Callable

from tests.end_to_end import document_inputs as inputs
from tests.tfds_builders import published_forms

# Few-shot episodes need several videos of the novel classes.
_MORE = "motion_sprites/tiny-videos_6"
_BATCH = "--config.data.batch_size=8"  # tests simulate eight devices
# Regex on a command's words -> replacement, one word or several, all of them in
# this order.
SMALLER = {
  r"^(--config=configs/pretrain_sprites\.py):demo(,base_only.*)$": (
    rf"\1:tiny\2 --config.data.dataset={_MORE}"
  ),
  r"^(--config=configs/(fewshot|localization_open)_sprites\.py):demo$": (
    rf"\1:tiny --config.data.dataset={_MORE} {_BATCH}"
  ),
  r"^(--config=configs/(grounding|localization_end)_\w+\.py):\w+(.*)$": (
    rf"\1:tiny\3 {_BATCH}"
  ),
  r"^(configs/\w+\.py|--config=configs/\w+\.py):(demo|full)": r"\1:tiny",
  r"^(--config=configs/\w+\.py)$": r"\1:tiny",
  r"^motion_sprites/demo$": _MORE,
  r"^(--config\.model\.(video|text)_size)=L$": r"\1=micro",
  r"^--config\.clip\.image_size=224$": "--config.clip.image_size=32",
}
# What starts so gets these words too.
EXTRA = {
  "clap demo": ("--size=tiny", "--encoders=random,clap"),
}

# Start of a command -> why no test can run it.
NOT_RUN = {
  "source .venv/bin/activate": "changes the shell that it is typed in",
  "./launch.sh test": "is the suite that would run it",
  "./launch.sh install": "downloads packages; .ci/run starts with it",
  "pip install": "downloads packages",
  "python -m tests.benchmarks.caption_ambiguity": "is a benchmark, run by hand",
  "python tests/benchmarks/real_footage.py": "takes an hour for a fold",
  "./launch.sh train": "trains at full size; tests/launcher has stand-ins",
  "clap study": "takes hours; tests/studies/study_test.py has tiny ones",
  "pytest -m faults": "takes an hour; is a part of the suite",
  "pytest -s tests/faults": "is a part of the suite",
  "python -m tests.faults.soak": "takes an hour",
  "clap train --config=... --workdir=...": "a form: the dots are the reader's; "
  "processes that meet are run by tests/faults/processes_test.py",
  "clap build activitynet --manual_dir gs://BUCKET/activitynet": (
    "needs a bucket with the videos of ActivityNet; "
    "tests/tfds_builders/bucket_test.py builds small ones in emulators"
  ),
  "clap import r2plus1d_34.pth": "the public weights are not at hand; "
  "tests/interchange/import_test.py imports random ones of that shape",
  "clap train --config=configs/pretrain_activitynet.py "
  "--workdir=runs/from_public": (
    "starts from public weights that are not at hand"
  ),
}


@dataclasses.dataclass(frozen=True)
class Section:
  """What the commands below a heading need beside themselves."""

  given: tuple[Callable, ...] = ()  # write what the reader brings
  after: tuple[str, ...] = ()  # sections whose commands come before
  fast: bool = False  # part of the default run
  smaller: dict[str, str] = dataclasses.field(default_factory=dict)  # SMALLER's


# Sections that are run on real data as well, and what writes it.
REAL = {
  "docs/own_videos.md#Train on your own videos": (
    inputs.real_videos_and_table,
    inputs.real_video,
  ),
}

_DEMO = "README.md#Two commands"
_DEMO_ENCODER = "workdir/demo/models/seed0/clap/pretrain"
_TINY_DEMO = {r"motion_sprites/demo\b": "motion_sprites/tiny"}

# Of the stand-in for CLIP ViT-B/32.
_MICRO_CLIP = {
  r"^(--config\.model\.\w+_size)=B$": r"\1=micro",
  r"^(--config\.model\.patch)=.*$": r"\1=(2,16,16)",
  r"^(--config\.model\.projection_width)=.*$": r"\1=16",
  r"^(--config\.data\.batch_size)=32$": r"\1=8",
}

SECTIONS = {
  _DEMO: Section(given=(inputs.demo,), fast=True),
  "README.md#Five lines to a prediction": Section(
    given=(inputs.public_clip, inputs.one_video), fast=True
  ),
  "docs/getting_started.md#Use what the demo made": Section(
    after=(_DEMO,), smaller=_TINY_DEMO
  ),
  "docs/own_videos.md#Train on your own videos": Section(
    given=(inputs.videos_and_table, inputs.one_video)
  ),
  "docs/own_videos.md#Sentences, and one model of both heads": Section(
    given=(inputs.model_of_both_heads,),
    after=("docs/own_videos.md#Train on your own videos",),
  ),
  "docs/own_videos.md#Predict": Section(
    given=(inputs.one_video,), after=(_DEMO,)
  ),
  "docs/public_weights.md#Three commands": Section(
    given=(
      inputs.public_clip,
      inputs.one_video,
      inputs.videos_and_table,
      inputs.examples,
    ),
    fast=True,
  ),
  "docs/public_weights.md#Five commands to a fine-tuned model": Section(
    after=("docs/public_weights.md#Three commands",), smaller=_MICRO_CLIP
  ),
  "docs/public_weights.md#Heads on its features": Section(
    after=("docs/public_weights.md#Five commands to a fine-tuned model",)
  ),
  "docs/public_weights.md#Mirrors, and machines without a network": Section(
    given=(inputs.public_clip,), fast=True
  ),
  "docs/real_footage.md#From clips to moments": Section(
    given=(inputs.sneeze_cough,),
    smaller={
      r"^--config\.loop\.steps=\d+$": "--config.loop.steps=2",
      r"^(--config=configs/localization_\w+\.py):demo$": rf"\1:tiny {_BATCH}",
      # The few clips have one novel class.
      r"^--config\.episodes\.ways=2$": "--config.episodes.ways=1",
      r"^--config\.evaluation\.ways=\(1, 2\)$": "--config.evaluation.ways=(1,)",
    },
  ),
  "docs/own_features.md#Actions on own features": Section(
    given=(inputs.tsp_features,)
  ),
  "docs/own_features.md#Sensor recordings: UCI HAPT": Section(
    given=(inputs.hapt_recordings,)
  ),
  "docs/pretraining.md#ActivityNet from videos to mAP": Section(
    given=(inputs.my_activitynet, inputs.one_video),
    smaller={
      r"^(--config=configs/\w+_activitynet\.py):full,extracted$": (
        rf"\1:tiny,extracted {_BATCH}"
      ),
      r"=my_activitynet/.*\.min\.json$": (  # the real one at hand
        "=my_activitynet/activitynet_v1.3/activity_net.v1-3.rebuilt.json"
      ),
    },
  ),
  "docs/pretraining.md#Start from public weights": Section(
    given=(inputs.minilm,)
  ),
  "docs/localization.md#Public features": Section(given=(inputs.tsp_features,)),
  "docs/localization.md#G-TAD and BMN": Section(
    given=(inputs.tsp_features, inputs.class_scores),
    smaller={r"^(--config=configs/proposals_gtad\.py):anet_tsp$": r"\1:tiny"},
  ),
  "docs/localization.md#The video tower in the loop": Section(
    given=(inputs.one_video,), after=(_DEMO,)
  ),
  "docs/localization.md#Classes by their names": Section(
    given=(inputs.minilm,), after=("docs/fewshot.md#Train and predict",)
  ),
  "docs/fewshot.md#Train and predict": Section(
    given=(inputs.one_video, inputs.examples)
  ),
  "docs/grounding.md#Public features": Section(
    given=(inputs.activitynet_captions,), after=(_DEMO,)
  ),
  "docs/datasets.md#Build": Section(given=(inputs.my_activitynet,)),
  "docs/evaluation.md#Score prediction files": Section(
    after=(_DEMO,), smaller=_TINY_DEMO
  ),
  "docs/training_at_scale.md#Cloud TPU": Section(
    given=(inputs.repository,), fast=True
  ),
  "docs/compile_ahead.md#Does it fit": Section(),
  "docs/compile_ahead.md#How long does a step take": Section(
    fast=True,
    smaller={r"^v5e:4x4$": "v5e:2x2"},  # a tiny batch is for four chips
  ),
  **{
    f"tfds_builders/{name}/README.md#{heading}": Section(
      given=tuple(
        inputs.published_source(write, config, stored=name != "ego4d")
        for write, config in forms
      ),
      after=(_DEMO,) if sentences else (),
      smaller={r"^MODEL$": _DEMO_ENCODER} if sentences else {},
    )
    for name, heading, sentences, *forms in (
      ("didemo", "DiDeMo", True, (published_forms.didemo, "didemo")),
      ("ego4d", "Ego4D: moments and natural-language queries", True,
       (published_forms.ego4d_mq, "ego4d/mq"),
       (published_forms.ego4d_nlq, "ego4d/nlq")),
      ("epic_sounds", "EPIC-SOUNDS", False,
       (published_forms.epic_sounds, "epic_sounds")),
      ("fineaction", "FineAction", False,
       (published_forms.fineaction, "fineaction")),
      ("youcook2", "YouCook2", True, (published_forms.youcook2, "youcook2")),
    )
  },
  "tfds_builders/hacs/README.md#HACS Segments": Section(
    given=(inputs.hacs_source,)
  ),
  **{
    f"tfds_builders/trimmed/README.md#{heading}": Section(
      given=(inputs.trimmed_sets,)
    )
    for heading in ("UCF101", "HMDB51", "Kinetics", "Folders of classes")
  },
  "tfds_builders/trimmed/README.md#Attributes, recordings and captions": (
    Section(given=(inputs.sneeze_cough,))
  ),
  **{
    f"tfds_builders/{name}/README.md#{heading}": Section(
      given=(inputs.sources(name, *configs),)
    )
    for name, heading, *configs in (
      ("activitynet", "ActivityNet 1.3, with ActivityNet Captions",
       "", "captions"),
      ("charades", "Charades"),
      ("charades_sta", "Charades-STA"),
      ("epic_kitchens_100", "EPIC-KITCHENS-100, action detection", "verb"),
      ("multithumos", "MultiTHUMOS"),
      ("qvhighlights", "QVHighlights"),
      ("tacos", "TACoS"),
      ("thumos14", "THUMOS14, temporal action detection"),
    )
  },
}  # fmt: skip
