"""Names that mean one video, several, or none."""

import unicodedata

import pytest

from clap_jax.storage import video_names

FILES = (
  "a.mp4",
  "sub/b.mkv",
  "v_abc.mp4",
  "Movie One.MP4",
  "x/same.mp4",
  "y/same.mp4",
  "two.mp4",
  "two.mkv",
  "caf\u00e9.mp4",
  "v1.5.mp4",
)


@pytest.mark.parametrize(
  "name,expected",
  [
    ("a.mp4", "a.mp4"),
    ("a", "a.mp4"),
    ("a.avi", "a.mp4"),
    ("./a.mp4", "a.mp4"),
    (" a.mp4 ", "a.mp4"),
    ("/home/me/videos/a.mp4", "a.mp4"),
    ("C:\\videos\\a.mp4", "a.mp4"),
    ("C:/videos/a.mp4", "a.mp4"),
    ("videos\\a.mp4", "a.mp4"),
    ("sub\\b.mkv", "sub/b.mkv"),
    ("b", "sub/b.mkv"),
    ("v_a", "a.mp4"),
    ("v_a.mp4", "a.mp4"),
    ("abc", "v_abc.mp4"),
    ("abc.mp4", "v_abc.mp4"),
    ("A.MP4", "a.mp4"),
    ("movie one", "Movie One.MP4"),
    ("x/same.mp4", "x/same.mp4"),
    ("x/same", "x/same.mp4"),
    ("two.mkv", "two.mkv"),
    ("/data/two.mkv", "two.mkv"),
    (unicodedata.normalize("NFD", "caf\u00e9.mp4"), "caf\u00e9.mp4"),
    ("v1.5", "v1.5.mp4"),
    ("none.mp4", None),
    ("/etc/passwd", None),
    ("..", None),
    ("", None),
  ],
)
def test_names(name, expected):
  assert video_names.NameIndex(FILES).find(name) == expected


@pytest.mark.parametrize("name", ["same", "same.mp4", "/z/same.mp4", "two"])
def test_several_are_not_chosen_from(name):
  with pytest.raises(video_names.AmbiguousNameError, match="several"):
    video_names.NameIndex(FILES).find(name)


def test_case_counts_for_ids_where_it_must():
  ids = video_names.NameIndex(["abC", "x"], any_case=False)
  assert ids.find("ABC") is None
  assert ids.find("v_x") == "x"
  both = video_names.NameIndex(["abC", "aBC"])
  assert both.find("abC") == "abC"
  with pytest.raises(video_names.AmbiguousNameError):
    both.find("ABC")


@pytest.mark.parametrize(
  "first,second,expected",
  [
    ("a.mp4", "x/a", True),
    ("x/a.mp4", "/home/me/x/A.mp4", True),
    ("x/a.mp4", "y/a.mp4", False),
    ("x/a.mp4", "C:\\y\\a.mp4", False),
    ("a", "v_a", False),
  ],
)
def test_two_names_of_one_file(first, second, expected):
  assert video_names.same_video(first, second) == expected
  assert video_names.same_video(second, first) == expected


def test_slugs_of_other_scripts_differ():
  names = ["ジャンプ", "走る", "прыжок", "бег", "_", "a b", "café", "cafe"]
  slugs = [video_names.slug(name) for name in names]
  assert len(set(slugs)) == len(names)
  assert slugs[4:6] == ["_", "a_b"]
  decomposed = unicodedata.normalize("NFD", "café")
  assert video_names.slug(decomposed) == video_names.slug("café")
  assert len(video_names.slug("é" + "x" * 300)) <= 128
