"""The page: self-contained, escaped, complete, the same every time."""

import base64
import hashlib
import html.parser
import math
import re

import numpy as np
import pytest

from clap_jax.report import content, page, result_table
from tests.report import stand_in

HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x>{{7*7}}"
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Outline(html.parser.HTMLParser):
  """Every element's tag and attributes, the ids, and whether tags balance."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.text, self._open = [], [], []
    self.feed(text)
    self.close()
    assert not self._open, f"never closed: {self._open}"

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open and self._open[-1] == tag, (tag, self._open[-3:])
    self._open.pop()

  def handle_data(self, data):
    self.text.append(data)

  def attributes(self, name):
    return [attrs[name] for _, attrs in self.elements if name in attrs]


@pytest.fixture(scope="module")
def full():
  return page.render(stand_in.report())


def hostile_report():
  segment = content.Segment(1.0, 2.0, HOSTILE, 0.5)
  query = content.Query(
    HOSTILE, [segment], [content.Track(HOSTILE, [segment])], absent=True
  )
  video = content.VideoTimeline(
    HOSTILE,
    5.0,
    frames=np.zeros((2, 8, 8, 3), np.uint8),
    ground_truth=[segment],
    tracks=[content.Track(HOSTILE, [segment])],
    queries=[query],
    note=HOSTILE,
  )
  row = dict.fromkeys(
    ("encoder", "dataset", "split", "task", "metric"), HOSTILE
  ) | {"seed": 0, "value": 0.5, "card": {HOSTILE: HOSTILE}}
  curve = content.Curve(HOSTILE, (0, 1), (1.0, 2.0))
  return page.Report(
    title=HOSTILE,
    subtitle=HOSTILE,
    key_figures=[(HOSTILE, HOSTILE)],
    table=result_table.ResultTable.of(
      [row], titles={HOSTILE: "title"}, reference=HOSTILE
    ),
    rows=[row],
    charts=[content.Chart(HOSTILE, [curve], HOSTILE, HOSTILE)],
    timelines=[video],
    unseen=[video],
    listings=[content.Listing(HOSTILE, [HOSTILE], [[HOSTILE]], HOSTILE)],
    failed=[(HOSTILE, HOSTILE)],
    commands=[content.Command(HOSTILE, HOSTILE)],
    notes=[HOSTILE],
  )


def test_nothing_is_loaded_from_elsewhere(full):
  outline = Outline(full)
  for name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
    for value in outline.attributes(name):
      assert value.startswith(("#", "data:image/jpeg;base64,"))
  assert not re.search(r"url\((?!#)|@import|http://|https://", full)
  assert "link" not in {tag for tag, _ in outline.elements}


def test_only_the_own_script_may_run(full):
  (script,) = re.findall(r"<script>(.*?)</script>", full, re.DOTALL)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = Outline(full).attributes("content")[-1]
  assert f"script-src 'sha256-{digest}'" in policy
  assert "default-src 'none'" in policy


def test_hostile_text_stays_text():
  text = page.render(hostile_report())
  outline = Outline(text)
  assert [tag for tag, _ in outline.elements].count("script") == 1
  assert not [src for src in outline.attributes("src") if "evil" in src]
  names = {name for _, attrs in outline.elements for name in attrs}
  assert not [name for name in names if name.startswith("on")]
  assert "".join(outline.text).count(HOSTILE) >= 15


def test_every_section_is_there_and_every_anchor_leads_somewhere(full):
  outline = Outline(full)
  ids = outline.attributes("id")
  assert len(ids) == len(set(ids))
  anchors = {href[1:] for href in outline.attributes("href")}
  assert anchors <= set(ids)
  expected = {"method", "results", "training", "timelines", "unseen", "run"}
  assert expected | {"glossary"} <= anchors


def test_figures_have_alternative_text(full):
  outline = Outline(full)
  images = [attrs for tag, attrs in outline.elements if tag == "img"]
  assert images and all(image["alt"] for image in images)
  for tag, attrs in outline.elements:
    if attrs.get("role") == "img" and tag in ("svg", "div"):
      assert attrs["aria-label"]


def test_an_empty_report_has_no_section():
  outline = Outline(page.render(page.Report(title="Nothing yet")))
  assert "section" not in {tag for tag, _ in outline.elements}
  assert set(outline.attributes("href")) == {"#content", "#top"}


def test_missing_parts_are_shown_as_missing():
  row = stand_in.rows()[0] | {"value": None, "card": {}}
  report = page.Report(
    title="Gaps",
    table=stand_in.table([row]),
    rows=[row],
    charts=[content.Chart("Loss", [content.Curve("clap", (0,), (math.nan,))])],
    timelines=[
      content.VideoTimeline("bare", 4.0),
      content.VideoTimeline("quiet", 4.0, tracks=[content.Track("clap")]),
    ],
  )
  text = "".join(Outline(page.render(report)).text)
  for expected in (
    "No finite value was written",
    "no segments and no predictions",
    "no predictions",
  ):
    assert expected in text
  assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_same_content_same_bytes(tmp_path, full):
  first = page.write_report(tmp_path / "new/a.html", stand_in.report())
  assert first.read_text(encoding="utf-8") == full
  assert [p.name for p in first.parent.iterdir()] == ["a.html"]


def test_frames_shrink_until_the_page_is_small_enough(monkeypatch, full):
  limit = len(full.encode()) - 20_000
  monkeypatch.setattr(page, "MAX_BYTES", limit)
  assert len(page.render(stand_in.report()).encode()) <= limit
  monkeypatch.setattr(page, "MAX_BYTES", 10_000)
  with pytest.raises(ValueError, match="expected at most 10,000"):
    page.render(stand_in.report())


def test_every_number_has_a_card(full):
  outline = Outline(full)
  text = "".join(outline.text)
  assert "split_hash" in text and "9f31c2" in text
  assert "checkpoint_step" in text  # differs by seed: a column of its own
  assert text.count("402") >= 5
