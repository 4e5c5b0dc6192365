"""Hostile input: nothing is silent, hangs, kills the parent or gets out."""

import http.server
import json
import os
import pathlib
import resource
import sys
import threading
import time

import pytest

from clap_jax.media.errors import VideoError
from clap_jax.media.limits import VideoLimits
from tests.tfds_builders import transcoding_test, video_corpus
from tfds_builders import build, transcoding

MAX_CHILD_KIB = 3 << 19  # 1.5 GiB
LIMITS = transcoding.StoreLimits(source=VideoLimits(max_decode_sec=120.0))


def _build_corpus(folder, cases):
  rows = ["video,start,end,label,caption"]
  rows += [f"{case.path.name},0.1,0.9,x," for case in cases]
  (folder / "a.csv").write_text("\n".join(rows) + "\n")
  result = build.build(
    "folder",
    data_dir=folder / "data",
    videos=folder,
    annotations=folder / "a.csv",
    limits=LIMITS,
  )
  return result["manifests"]["train"]


def _check(cases, manifest):
  """What each case became, against what it may become."""
  corrupt = {entry["id"]: entry["reason"] for entry in manifest["corrupt"]}
  noticed = {entry["id"] for entry in manifest["damaged"]}
  silent = []
  for case in cases:
    name = case.path.stem
    video = manifest["videos"][name]
    assert video["sha256"] and video["bytes"] == case.path.stat().st_size
    if name in corrupt:
      assert len(corrupt[name]) > 5, name
      if case.outcome == "ok":
        silent.append((name, corrupt[name]))
      continue
    frames = video["frames"]["actual"]
    is_whole = frames == case.frames
    if case.outcome == "refused" or not (
      is_whole or (case.outcome == "noticed" and name in noticed)
    ):
      silent.append((name, video))
    if case.outcome == "ok" and not name.startswith(("variable", "live")):
      assert name not in noticed, name
  assert silent == []


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  return folder, video_corpus.make(folder)


def test_a_sample_of_the_corpus(corpus, tmp_path):
  _, cases = corpus
  assert len(cases) >= 60
  sample = cases[::6]
  for case in sample:
    (tmp_path / case.path.name).write_bytes(case.path.read_bytes())
  _check(sample, _build_corpus(tmp_path, sample))


@pytest.mark.faults
def test_the_whole_corpus(corpus, figure):
  folder, cases = corpus
  manifest = _build_corpus(folder, cases)
  _check(cases, manifest)
  assert manifest["present"] + len(manifest["corrupt"]) == len(cases)
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
  figure(
    f"#21 {len(cases)} damaged and unusual videos",
    f"{manifest['present']} whole or named, {len(manifest['corrupt'])} left "
    f"out with a reason, 0 silent, {peak >> 10} MiB",
    f"0 silent, {MAX_CHILD_KIB >> 10} MiB",
  )
  assert peak < MAX_CHILD_KIB


@pytest.mark.parametrize("signal_name", ["SEGV", "ABRT", "KILL"])
def test_a_dying_decoder_costs_its_video_only(
  tmp_path, monkeypatch, signal_name
):
  source = transcoding_test.make_video(tmp_path / "a.mp4")
  program = tmp_path / "decoder"
  program.write_text(f"#!/bin/sh\nkill -{signal_name} $$\n")
  program.chmod(0o755)
  monkeypatch.setattr(sys, "executable", str(program))
  with pytest.raises(VideoError, match="decoder died"):
    transcoding.transcode_apart(source, tmp_path / "b.mp4", limits=LIMITS)


def test_a_hanging_decoder_is_ended(tmp_path, monkeypatch):
  source = transcoding_test.make_video(tmp_path / "a.mp4")
  program = tmp_path / "decoder"
  program.write_text("#!/bin/sh\nexec sleep 600\n")
  program.chmod(0o755)
  monkeypatch.setattr(sys, "executable", str(program))
  start = time.monotonic()
  with pytest.raises(VideoError, match="longer than 1 s"):
    transcoding.transcode_apart(
      source,
      tmp_path / "b.mp4",
      limits=transcoding.StoreLimits(source=VideoLimits(max_decode_sec=1.0)),
    )
  assert time.monotonic() - start < 300


class _Listener:
  """A local server that notes who comes."""

  def __enter__(self):
    hits = self.hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        hits.append(self.path)
        self.send_error(404)

      do_HEAD = do_GET

    self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    self.address = f"http://127.0.0.1:{self._server.server_port}/x.mp4"
    return self

  def __exit__(self, *unused):
    self._server.shutdown()
    self._server.server_close()


def _names(address, outside):
  return [
    address,
    f"concat:{outside}|{outside}",
    f"subfile,,start,0,end,0,,:{outside}",
    f"file:{outside}",
    "../outside.mp4",
    f"{outside}",
    "a/../../outside.mp4",
    "nul\0byte.mp4",
    "line\nfeed.mp4",
    "-i.mp4",
    "--help",
    "~/x.mp4",
    "$(touch owned).mp4",
    "`touch owned`.mp4",
    "; touch owned;.mp4",
    "%s%n.mp4",
    "x" * 4096,
    "C:\\x.mp4",
    ".",
    "..",
    "",
    "link.mp4",
    "folder_link/outside.mp4",
  ]


def test_hostile_names_reach_nothing(tmp_path):
  """Names as annotations may hold them; only the good video is opened."""
  videos = tmp_path / "videos"
  (videos / "real").mkdir(parents=True)
  outside = transcoding_test.make_video(tmp_path / "outside.mp4")
  transcoding_test.make_video(videos / "good.mp4")
  os.symlink(outside, videos / "link.mp4")
  os.symlink(tmp_path, videos / "folder_link")
  with _Listener() as listener:
    names = _names(listener.address, outside)
    span = [{"segment": [0, 1], "label": "x"}]
    database = {name: {"annotations": span} for name in [*names, "good.mp4"]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"database": database}))
    before = set(tmp_path.rglob("*"))
    result = build.build(
      "folder", data_dir=tmp_path / "data", videos=videos, annotations=path
    )
    assert listener.hits == []
  manifest = result["manifests"]["train"]
  assert manifest["present"] == 1
  named = len(manifest["corrupt"]) + len(manifest["missing"])
  assert named == len(names)
  assert list(manifest["videos"]) == ["good"]
  new = set(tmp_path.rglob("*")) - before
  assert all(p.is_relative_to(tmp_path / "data") for p in new)
  assert not pathlib.Path("owned").exists()


def test_files_that_name_addresses_are_not_followed(tmp_path):
  """Playlists and edit lists under every ending and behind every magic."""
  outside = transcoding_test.make_video(tmp_path / "outside.mp4")
  heads = (
    "",
    "\0\0\0\x18ftypisom",
    "RIFF\0\0\0\0AVI ",
    "\x1aE\xdf\xa3",
    "FLV\1",
  )
  with _Listener() as listener:
    bodies = [
      f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{listener.address}\n",
      f"#EXTM3U\n#EXTINF:1,\nconcat:{outside}|{listener.address}\n",
      f"ffconcat version 1.0\nfile '{listener.address}'\n",
      f"ffconcat version 1.0\nfile '{outside}'\n",
      f'<?xml version="1.0"?><MPD><BaseURL>{listener.address}</BaseURL></MPD>',
      f"v=0\nc=IN IP4 127.0.0.1\nm=video 1 RTP/AVP 96\na={listener.address}\n",
    ]
    files = [(head, body) for head in heads[:2] for body in bodies]
    files += [(head, bodies[0]) for head in heads[2:]]
    for index, (head, body) in enumerate(files):
      path = tmp_path / f"{index}.mp4"
      path.write_text(head + body, encoding="latin-1")
      with pytest.raises(VideoError):
        transcoding.transcode_apart(path, tmp_path / "out.mp4", limits=LIMITS)
      assert not (tmp_path / "out.mp4").exists()
    assert listener.hits == []
