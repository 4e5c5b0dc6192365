"""Exports of five tools: what is converted, what is rejected and why."""

import json

import pytest

from clap_jax import main
from clap_jax.annotations import own_files, source_files
from tfds_builders.tool_exports import converting

WAVE = {"a.mp4": [(1.0, 4.0, "wave hand")]}
ELAN_HEADER = (
  "Tier\tParticipant\tBegin Time - hh:mm:ss.ms\tBegin Time - ss.msec\t"
  "Begin Time - msec\tEnd Time - hh:mm:ss.ms\tEnd Time - ss.msec\t"
  "End Time - msec\tAnnotation\tFile Path\n"
)
ELAN_ROW = (
  "act\t\t00:00:01.000\t1.0\t1000\t00:00:04.000\t4.0\t4000\twave hand\t"
  "file:///home/my%20me/a.mp4\n"
)
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT>
 <HEADER TIME_UNITS="milliseconds">
  <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/films/a.mp4" MIME_TYPE="video/mp4"/>
 </HEADER>
 <TIME_ORDER>
  <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="1000"/>
  <TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="4000"/>
  <TIME_SLOT TIME_SLOT_ID="ts3"/>
 </TIME_ORDER>
 <TIER TIER_ID="act">
  <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1"
   TIME_SLOT_REF2="ts2"><ANNOTATION_VALUE>wave hand</ANNOTATION_VALUE>
  </ALIGNABLE_ANNOTATION></ANNOTATION>
  <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts2"
   TIME_SLOT_REF2="ts3"><ANNOTATION_VALUE>jump</ANNOTATION_VALUE>
  </ALIGNABLE_ANNOTATION></ANNOTATION>
 </TIER>
 <TIER TIER_ID="hand">
  <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a3" ANNOTATION_REF="a1">
   <ANNOTATION_VALUE>left</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
 </TIER>
</ANNOTATION_DOCUMENT>"""
BORIS_EVENTS = """Observation id,obs1
Media file(s)
Player #1,C:\\films\\a.mp4

Time,Media file path,Total length,FPS,Subject,Behavior,Comment,Status
1.0,C:\\films\\a.mp4,12.0,25,m1,wave hand,,START
2.0,C:\\films\\a.mp4,12.0,25,m1,blink,,POINT
3.0,C:\\films\\a.mp4,12.0,25,m2,wave hand,,START
4.0,C:\\films\\a.mp4,12.0,25,m1,wave hand,,STOP
5.0,C:\\films\\a.mp4,12.0,25,m1,jump,,STOP
"""
BORIS_EVENTS_8 = (
  "Observation id\tObservation type\tSource\tSubject\tBehavior\t"
  "Behavior type\tTime\tMedia file name\tImage index\n"
  "o\tMedia file(s)\tplayer #1:x/a.mp4\tNo focal subject\twave hand\tSTART\t"
  "1,0\ta.mp4\t25\n"
  "o\tMedia file(s)\tplayer #1:x/a.mp4\tNo focal subject\twave hand\tSTOP\t"
  "4,0\ta.mp4\t100\n"
)
BORIS_AGGREGATED = (
  "Observation id;Source;Behavior;Behavior type;Start (s);Stop (s)\n"
  "o;player #1:x/a.mp4;wave hand;STATE;1.0;4.0\n"
  "o;player #1:x/a.mp4;blink;POINT;2.0;2.0\n"
  "o;player #1:x/a.mp4;jump;STATE;4.0;NA\n"
)
LS_TRACK = {
  "type": "videorectangle",
  "value": {
    "framesCount": 120,
    "duration": 12.0,
    "labels": ["wave hand"],
    "sequence": [
      {"frame": 10, "enabled": True},
      {"frame": 40, "enabled": False},
    ],
  },
}
LS_TASK = {
  "data": {"video": "/data/upload/3/0a1b2c3d-a.mp4", "fps": 30},
  "annotations": [
    {
      "result": [
        {
          "type": "timelinelabels",
          "value": {
            "ranges": [{"start": 30, "end": 120}],
            "timelinelabels": ["wave hand"],
          },
        },
        {"type": "textarea", "value": {"text": ["nice"]}},
      ]
    },
    {"was_cancelled": True, "result": [LS_TRACK]},
  ],
}
LS_MIN = {
  "id": 1,
  "video": "s3://bucket/a.mp4",
  "tl": [
    {"ranges": [{"start": 25, "end": 100}], "timelinelabels": ["wave hand"]}
  ],
}
VIA = {
  "project": {"pid": "x"},
  "attribute": {
    "1": {"aname": "note", "type": 1, "options": {}},
    "2": {
      "aname": "Action",
      "type": 4,
      "options": {"0": "wave hand", "1": "b"},
    },
  },
  "file": {"7": {"fid": "7", "fname": "a.mp4", "src": "/x/a.mp4"}},
  "view": {"1": {"fid_list": ["7"]}},
  "metadata": {
    "1_a": {"vid": "1", "z": [1.0, 4.0], "av": {"1": "clear", "2": "0"}},
    "1_b": {"vid": "1", "z": [2.0], "xy": [2, 1, 1, 5, 5], "av": {"2": "1"}},
    "1_c": {"vid": "9", "z": [2.0, 3.0], "av": {"2": "1"}},
    "1_d": {"vid": "1", "z": [2.0, 3.0], "av": {}},
  },
}
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><id>5</id><name>t</name><size>300</size>
<source>films/a.mp4</source></task></meta>
<track id="0" label="wave hand" source="manual">
<box frame="25" outside="0" keyframe="1" xtl="1"/>
<box frame="60" outside="0" keyframe="1" xtl="2"/>
<box frame="100" outside="1" keyframe="1" xtl="2"/>
</track>
<track id="1" label="none"><box frame="3" outside="1"/></track>
</annotations>"""
CVAT_TAGS = """<annotations><meta><job><id>1</id><source>a.mp4</source>
<frame_filter>step=5</frame_filter></job></meta>
<image id="25" name="frame_000025"><tag label="wave hand"/></image>
<image id="30" name="frame_000030"><tag label="wave hand"/></image>
<image id="90" name="frame_000090"><tag label="jump"/></image>
</annotations>"""


def _convert(tmp_path, tool, content, *, name="x.txt", **options):
  path = tmp_path / name
  if not isinstance(content, (str, bytes)):
    content = json.dumps(content)
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return converting.convert(path, tool=tool, **options)


def _segments(found):
  return {
    name: [(*a["segment"], a["label"]) for a in video["annotations"]]
    for name, video in found.document["database"].items()
  }


@pytest.mark.parametrize(
  "export,expected,reasons",
  [
    (("elan", ELAN_HEADER + ELAN_ROW, {}), WAVE, []),
    (("elan", (ELAN_HEADER + ELAN_ROW).encode("utf-16"), {}), WAVE, []),
    (
      (
        "elan",
        "act\t\t00:00:01.000\t00:00:04.000\twave hand\nact\t\t00:00:05.000\n",
        {"video": "a.mp4"},
      ),
      WAVE,
      ["expected tier"],
    ),
    (
      ("elan", "act\t1000\t4000\t3000\twave hand\n", {"video": "a.mp4"}),
      WAVE,
      [],
    ),
    (("elan", "act\t1.0\t4.0\twave hand\n", {"video": "a.mp4"}), WAVE, []),
    (("elan", "act\t1,0\t4,0\twave hand\n", {"video": "a.mp4"}), WAVE, []),
    (
      (
        "elan",
        "Begin Time - msec\tEnd Time - msec\tact\thand\n"
        "1000\t4000\twave hand\t\n"
        "5000\t6000\t\t\n",
        {"video": "a.mp4"},
      ),
      WAVE,
      ["no annotation text"],
    ),
    (
      ("elan", EAF, {"name": "x.eaf"}),
      {"a.mp4": [(1.0, 4.0, "left"), (1.0, 4.0, "wave hand")]},
      ["not aligned"],
    ),
    (
      (
        "elan",
        EAF.replace(" MIME", ' RELATIVE_MEDIA_URL="./my%20a.mp4" MIME'),
        {"name": "x.eaf"},
      ),
      {"my a.mp4": [(1.0, 4.0, "left"), (1.0, 4.0, "wave hand")]},
      ["not aligned"],
    ),
    (
      ("boris", BORIS_EVENTS, {}),
      WAVE,
      ["point in time", "without a start", "never stops"],
    ),
    (("boris", BORIS_EVENTS_8, {}), WAVE, []),
    (("boris", BORIS_AGGREGATED, {}), WAVE, ["point in time", "point in time"]),
    (("labelstudio", [LS_TASK], {}), WAVE, ["textarea"]),
    (
      (
        "labelstudio",
        [{"data": {"v": "a.mp4"}, "annotations": [{"result": [LS_TRACK]}]}],
        {},
      ),
      WAVE,
      [],
    ),
    (("labelstudio", [LS_MIN], {"fps": 25}), WAVE, []),
    (
      (
        "labelstudio",
        [LS_MIN, {"id": 2, "video": "b.mp4"}, {"id": 3}],
        {"fps": 25},
      ),
      WAVE,
      ["no labelled segment", "names no video"],
    ),
    (
      ("via", VIA, {}),
      WAVE,
      ["no temporal segment", "no file '9'", "no attribute has a value"],
    ),
    (("cvat", CVAT, {"fps": 25}), WAVE, ["outside in every frame"]),
    (
      ("cvat", CVAT_TAGS, {"fps": 5}),
      {"a.mp4": [(5.0, 7.0, "wave hand"), (18.0, 19.0, "jump")]},
      [],
    ),
  ],
)
def test_exports(tmp_path, export, expected, reasons):
  tool, content, options = export
  found = _convert(tmp_path, tool, content, **options)
  assert _segments(found) == expected
  assert len(found.rejected) == len(reasons)
  for note, reason in zip(found.rejected, reasons, strict=True):
    assert reason in note["reason"]


@pytest.mark.parametrize(
  "name,tool,expected",
  [
    (
      "23_boris_tabular.csv",
      "boris",
      {**WAVE, "b.mp4": [(2.0, 6.5, "jump")]},
    ),
    ("24_elan.txt", "elan", {"24_elan": WAVE["a.mp4"]}),
    ("25_elan_noheader.csv", "elan", {"25_elan_noheader": WAVE["a.mp4"]}),
    ("26_labelstudio.json", "labelstudio", WAVE),
    ("27_via3.json", "via", WAVE),
  ],
)
def test_files_of_users(shared_data, name, tool, expected):
  path = shared_data.parent / "cases" / "11" / name
  if not path.is_file():
    pytest.skip(f"no exports of users: {path} is missing")
  assert _segments(converting.convert(path, tool=tool)) == expected


def test_what_is_assumed_is_noted(tmp_path):
  found = _convert(tmp_path, "labelstudio", [LS_MIN])
  assert "25 frames per second" in found.notes[0]
  assert found.document["notes"] == found.notes
  assert _convert(tmp_path, "labelstudio", [LS_MIN], fps=30).notes == []
  found = _convert(tmp_path, "elan", "act\t1.0\t4.0\twave\n", name="tape.txt")
  assert list(_segments(found)) == ["tape"]
  assert "--video" in found.notes[0]


@pytest.mark.parametrize(
  "tool,content,word",
  [
    ("elan", "hello\nworld\n", "line 1"),
    ("elan", "", "empty"),
    ("boris", "video,start,end\n", "Behavior"),
    ("boris", "Behavior,Time,Status\nx,1,POINT\n", "line 2"),
    ("labelstudio", [3], "tasks"),
    ("labelstudio", [], "empty"),
    ("via", {"_via_img_metadata": {}}, "VIA 2"),
    ("via", [], "VIA 3"),
    ("via", "{", "JSON"),
    ("cvat", "<html></html>", "<html>"),
    ("cvat", "<annotations>", "XML"),
    ("cvat", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "line 1"),
    ("cvat", "<a>" * 100, "deeply"),
    ("cvat", CVAT.replace("<meta>", "<!DOCTYPE x>"), "line 3"),
    ("none", "", "none"),
  ],
)
def test_what_is_not_an_export_is_refused(tmp_path, tool, content, word):
  with pytest.raises(ValueError, match=word):
    _convert(tmp_path, tool, content)


def test_the_command_writes_what_folder_reads(tmp_path, capsys):
  source, out = tmp_path / "x.csv", tmp_path / "x.json"
  source.write_text(BORIS_EVENTS)
  command = ["convert", "annotations", str(source), f"--out={out}"]
  assert main.main([*command, "--from=boris"]) == 0
  printed = capsys.readouterr()
  assert "1 segments" in printed.err
  assert "3 rows are left out" in printed.err
  assert "line 7" in printed.err
  file = own_files.read(source_files.SourceFiles(out))
  (span,) = file.entries["a.mp4"].segments
  assert (span.start_sec, span.end_sec, span.text) == WAVE["a.mp4"][0]
  assert file.entries["a.mp4"].expected_duration_sec == 12.0
  assert main.main([*command, "--from=boris"]) == 2  # it is there already
  assert main.main([*command, "--from=boris", "--overwrite"]) == 0


def test_nothing_usable_ends_with_2(tmp_path, capsys):
  source, out = tmp_path / "x.csv", tmp_path / "x.json"
  source.write_text("Behavior,Time,Status\nblink,1.0,POINT\n")
  command = ["convert", "annotations", str(source), f"--out={out}"]
  assert main.main([*command, "--from=boris"]) == 2
  printed = capsys.readouterr().err
  for word in ("x.csv", "line 2", "point in time"):
    assert word in printed
  assert not out.exists()
