"""Names, labels and queries of others stay text in every page."""

import html
import json
import pathlib
import re

import pytest

from clap_jax import main
from clap_jax.report import player

REPOSITORY = pathlib.Path(__file__).parents[2]
TEMPLATES = sorted((REPOSITORY / "clap_jax").rglob("*.html"))
MARKUP = "</script><script>x()</script><img src=x onerror=x()>\"'{{7*7}}<svg>"
# A value that is filled in outside quotes would end at its first space.
_UNQUOTED = re.compile(r"=\s*\{\{")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_escape_all_that_is_filled_in(path):
  text = path.read_text(encoding="utf-8")
  assert not re.search(r"\|\s*safe\b|autoescape|javascript:", text)
  assert not _UNQUOTED.search(text)
  assert not re.search(r"\son\w+\s*=", text)  # no handlers in attributes


def tags(text):
  return re.findall(r"<(?:img|script|svg)\b[^>]*>", text)


def test_the_page_of_hostile_predictions(tmp_path):
  truth = {
    "database": {
      f"v{i}{MARKUP}": {
        "subset": "validation",
        "duration": 100.0,
        "annotations": [{"label": f"{MARKUP}{i % 2}", "segment": [10, 20]}],
      }
      for i in range(3)
    }
  }
  found = {
    "results": {
      f"v{i}{MARKUP}": [
        {"label": f"{MARKUP}{i % 2}", "score": 0.9, "segment": [10, 20]}
      ]
      for i in range(3)
    }
  }
  names = [f"{kind}<img src=x onerror=x()>.json" for kind in ("truth", "found")]
  for name, document in zip(names, (truth, found), strict=True):
    (tmp_path / name).write_text(json.dumps(document))
  page = tmp_path / "page.html"
  arguments = ["score", str(tmp_path / names[1]), "--ground_truth"]
  arguments += [str(tmp_path / names[0]), "--protocol", "activitynet"]
  assert main.main([*arguments, "--html", str(page)]) == 0
  text = page.read_text(encoding="utf-8")
  assert "&lt;img src=x onerror" in text  # the name of the file is shown
  assert len(tags(text)) == text.count("<script>") + text.count("<svg ")
  assert "onerror=x()>" not in text and text.count("<script>") == 1


def test_the_player_of_hostile_predictions():
  moment = {"start_sec": 1.0, "end_sec": 2.0, "score": 0.5}
  entry = {
    "video": f"/nowhere/{MARKUP.replace('/', '')}",
    "duration_sec": 9.0,
    "predictions": [moment | {"label": MARKUP}, moment | {"query": MARKUP}],
    "absence": {MARKUP: {"absent": True}},
  }
  text = player.render(entry, source=f"x:{MARKUP}")
  assert tags(text) == ["<script>"]
  # The policy admits this script and no other, were an escape forgotten.
  policy = re.search(r'Security-Policy" content="([^"]*)"', text)[1]
  assert "unsafe" not in policy
  assert len(player.inline_hashes()) == 2
  assert all(
    f"'{digest}'" in html.unescape(policy) for digest in player.inline_hashes()
  )
