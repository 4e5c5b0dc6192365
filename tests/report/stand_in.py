"""Made-up content that fills every section of a report. For tests only."""

import math

import numpy as np

from clap_jax.report import content, page, result_table

LABELS = ("zigzags", "spins", "bounces", "slides", "pulses", "orbits", "shakes")
_LEVELS = {"random": 0.10, "tac": 0.33, "tsp": 0.35, "clip": 0.34, "clap": 0.41}


def frames(rng: np.random.Generator, *, count: int = 14) -> np.ndarray:
  """A red disc that crosses a striped, changing background."""
  rows, columns = np.mgrid[:72, :96]
  tint = rng.integers(60, 160, 3)
  out = np.empty((count, 72, 96, 3), np.uint8)
  for index in range(count):
    wave = 30 * np.sin((columns + 2 * rows) / 9 + index)
    out[index] = np.clip(tint + wave[..., None], 0, 255)
    centre = 10 + index * 76 / count
    disc = (columns - centre) ** 2 + (rows - 36 - 12 * math.sin(index)) ** 2
    out[index][disc < 90] = (210, 40, 30)
  return out


def rows(*, seeds: int = 3) -> list[dict]:
  """Results of five encoders on three tasks, clap best."""
  rng = np.random.default_rng(1)
  metrics = {
    "retrieval": {"t2v/r@1": 0.5, "t2v/r@5": 1.4, "v2t/r@1": 0.45},
    "localization": {"map@0.50": 1.4, "map@0.75": 0.8, "average_map": 1.0},
    "grounding": {"r1@0.5": 1.2, "r1@0.7": 0.7, "r5@0.5": 1.9, "miou": 1.1},
  }
  out = []
  for task, factors in metrics.items():
    for encoder, level in _LEVELS.items():
      for seed in range(seeds):
        for metric, factor in factors.items():
          value = float(level * factor + rng.normal(0, 0.012))
          card = {
            "protocol": "activitynet" if task == "localization" else task,
            "split": "validation",
            "split_hash": "9f31c2",
            "videos_evaluated": 40,
            "videos_missing": [],
            "nms": {"kind": "soft", "sigma": 0.5},
            "seed": seed,
            "checkpoint_step": 400 + seed,
          }
          out.append(
            {
              "encoder": encoder,
              "seed": seed,
              "dataset": "motion_sprites/demo",
              "split": "validation",
              "task": task,
              "metric": metric,
              "value": value,
              "card": card,
            }
          )
  return out


def table(of_rows) -> result_table.ResultTable:
  return result_table.ResultTable.of(
    of_rows, titles=content.ENCODERS, reference="clap"
  )


def charts() -> tuple[content.Chart, ...]:
  """A noisy loss of three encoders, a short metric, a logarithmic chart."""
  rng = np.random.default_rng(2)
  steps = np.arange(0, 600, 2)
  losses = [
    content.Curve(
      name=f"{name}{suffix}",
      steps=steps,
      values=floor
      + 2.6 * np.exp(-steps / 150)
      + rng.normal(0, 0.13, len(steps)),
    )
    for name, floor, suffix in (
      ("tac", 1.1, ""),
      ("clap", 1.4, ""),
      ("clap", 1.5, " seed 1"),
    )
  ]
  selection = [
    content.Curve(name=name, steps=range(0, 601, 100), values=values)
    for name, values in (
      ("tac", (0.08, 0.15, 0.22, 0.28, 0.31, 0.32, 0.33)),
      ("clap", (0.09, 0.17, math.nan, 0.33, 0.38, 0.40, 0.41)),
    )
  ]
  decay = content.Curve(
    name="localization", steps=steps, values=3 * np.exp(-steps / 110) + 0.004
  )
  return (
    content.Chart("Pre-training", losses, y_label="loss"),
    content.Chart("On the selection split", selection, y_label="average mAP"),
    content.Chart("Localization head", [decay]),
  )


def video(
  seed: int, *, tracks: tuple[str, ...] = ("clap",)
) -> content.VideoTimeline:
  """A video with overlapping actions, predictions near them, and queries."""
  rng = np.random.default_rng(seed)
  duration = float(rng.uniform(22, 41))
  truth = []
  for _ in range(int(rng.integers(3, 7))):
    start = float(rng.uniform(0, duration - 5))
    length = float(rng.uniform(1.5, 5))
    truth.append(
      content.Segment(start, start + length, str(rng.choice(LABELS)))
    )
  predictions = [_near(rng, truth, noise=1.5, duration=duration) for _ in "ab"]
  made = tuple(
    content.Track(
      name,
      tuple(
        _near(rng, truth, noise=0.4 + 0.9 * index, duration=duration)
        for _ in range(16)
      ),
    )
    for index, name in enumerate(tracks)
  )
  query = content.Query(
    text=f"the small red disc {truth[0].label} towards the blue square",
    moments=truth[:1],
    tracks=(content.Track("clap", [*predictions, *made[0].segments[:5]]),),
  )
  return content.VideoTimeline(
    video_id=f"motion_sprites-validation-{seed:05d}",
    duration_sec=duration,
    frames=frames(rng),
    ground_truth=truth,
    tracks=made,
    queries=(query,),
  )


def _near(
  rng: np.random.Generator,
  truth: list[content.Segment],
  *,
  noise: float,
  duration: float,
) -> content.Segment:
  chosen = truth[int(rng.integers(len(truth)))]
  shift = rng.normal(0, noise, 2)
  start = min(max(0.0, chosen.start_sec + shift[0]), duration - 0.5)
  end = min(max(start + 0.4, chosen.end_sec + shift[1]), duration)
  label = chosen.label if rng.random() < 0.8 else str(rng.choice(LABELS))
  score = float(np.exp(-np.abs(shift).sum()) * rng.uniform(0.4, 0.95))
  return content.Segment(float(start), float(end), label, score)


def report(*, num_videos: int = 6) -> page.Report:
  """A report with something in every section."""
  return page.Report(
    title="CLAP on motion sprites",
    subtitle=(
      "Video encoders pre-trained in five ways, then frozen and compared on"
      " finding actions and described moments in untrimmed videos."
    ),
    key_figures=(
      ("Training videos", "320"),
      ("Validation videos", "40"),
      ("Action classes", "24"),
      ("Machine", "2 CPU cores, 5.1 GB peak"),
      ("Commit", "3b25775"),
    ),
    method=True,
    table=table(rows()),
    rows=rows(),
    charts=charts(),
    timelines=[video(i, tracks=("clap", "tac")) for i in range(num_videos)],
    unseen=[video(900)],
    listings=(
      content.Listing(
        "Stages",
        ("Stage", "Wall time", "Reads", "Writes"),
        (
          ("Render", "61 s", "seed 0", "demo/videos"),
          ("Build", "9.4 s", "demo/videos", "demo/tfds/motion_sprites"),
        ),
      ),
    ),
    commands=(
      content.Command("Everything", "./launch.sh demo --workdir demo"),
    ),
    notes=("The demo is small: it shows that the path works, not a record.",),
  )
