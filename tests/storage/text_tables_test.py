"""Tables of text in every form in which they are saved."""

import itertools

import pytest

from clap_jax.annotations import annotation_tables
from clap_jax.storage import text_tables

COLUMNS = ("video", "start", "end", "label", "caption")
ROWS = (
  ("a.mp4", 1.0, 4.0, "wave, hand", 'says "hello"'),
  ("走る.mp4", 2.25, 6.5, "sit/stand", "it's"),
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be")
HEADERS = (
  lambda name: name,
  str.upper,
  lambda name: f" {name.title()} ",
  lambda name: {
    "video": "File name",
    "start": "Start (s)",
    "end": "stop-sec",
    "label": "Class",
    "caption": "Sentence",
  }[name],
)


def _quoted(cell, delimiter):
  if delimiter in cell or '"' in cell:
    return '"' + cell.replace('"', '""') + '"'
  return cell


def _clock(seconds):
  return f"{seconds // 60:.0f}:{seconds % 60:06.3f}"


def _long_clock(seconds):
  return (
    f"{seconds // 3600:02.0f}:{seconds // 60 % 60:02.0f}:{seconds % 60:09.6f}"
  )


def _encoded(text, encoding):
  mark = "\ufeff" if encoding == "utf-16-be" else ""
  return (mark + text).encode(encoding)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_all_forms_give_the_same_rows(tmp_path, delimiter, encoding):
  path = tmp_path / "a.csv"
  times = [str, _clock, _long_clock]
  if delimiter != ",":
    times.append(lambda seconds: str(seconds).replace(".", ","))
  for header, time, line_end, padding, preamble in itertools.product(
    HEADERS, times, ("\n", "\r\n"), ("", " "), ("", f"sep={delimiter}")
  ):
    lines = [preamble] if preamble else []
    lines.append(delimiter.join(map(header, COLUMNS)))
    for row in ROWS:
      cells = [row[0], time(row[1]), time(row[2]), *row[3:]]
      cells = [padding + _quoted(cell, delimiter) for cell in cells]
      lines += [delimiter.join(cells) + padding, delimiter * 4]
    path.write_bytes(_encoded(line_end.join([*lines, ""]), encoding))
    table = annotation_tables.read(path)
    found = [
      (r.cells["video"], *table.times(r), r.cells["label"], r.cells["caption"])
      for r in table.table
    ]
    assert found == list(ROWS)
    first = 2 + bool(preamble)
    assert [r.line for r in table.table] == [first, first + 2]


@pytest.mark.parametrize(
  "text,expected",
  [
    ("3", 3.0),
    ("12.5", 12.5),
    (7, 7.0),
    (" 1e2 ", 100.0),
    ("-0.4", -0.4),
    (".5", 0.5),
    ("00:04", 4.0),
    ("1:02.5", 62.5),
    ("75:30", 4530.0),
    ("00:00:06.500", 6.5),
    ("01:02:03,25", 3723.25),
    ("-00:01", -1.0),
    ("75.0s", 75.0),
    ("1,5 sec", 1.5),
    ("1m2s", 62.0),
    ("1h 2 min 3.5s", 3723.5),
    ("2 minutes", 120.0),
  ],
)
def test_times(text, expected):
  assert text_tables.seconds(text) == expected


@pytest.mark.parametrize(
  "value,reason",
  [
    ("", "empty"),
    ("zero", "not a number"),
    ("s", "not a number"),
    ("25 f", "not a number"),
    ("10 ms", "not a number"),
    ("1_0", "not a number"),
    ("1,5", "decimal comma"),
    ("1.234,5", "not a number"),
    ("inf", "finite"),
    ("NaN", "finite"),
    ("1e999", "finite"),
    (10**400, "finite"),
    (True, "not a number"),
    (None, "not a number"),
    ("00:75", "60"),
    ("1:60:00", "60"),
    ("00:00:04:12", "frames"),
    ("00:00:04;12", "frames"),
  ],
)
def test_what_is_not_a_time(value, reason):
  with pytest.raises(ValueError, match=reason):
    text_tables.seconds(value)


def test_a_decimal_comma_only_where_commas_part_no_cells():
  assert text_tables.seconds("1,5", decimal_comma=True) == 1.5
  table = text_tables.parse_table("a;b\n1,5;2\n", name="x", columns=("a", "b"))
  assert table.decimal_comma
  assert next(iter(table)).cells == {"a": "1,5", "b": "2"}


def test_milliseconds_are_read_where_the_header_says_so(tmp_path):
  path = tmp_path / "a.csv"
  for header in ("start_ms,end_ms", "Start (ms),Stop [ms]"):
    path.write_text(f"video,{header},label\na,1500,2000,x\n")
    table = annotation_tables.read(path)
    assert [table.times(row) for row in table.table] == [(1.5, 2.0)]


@pytest.mark.parametrize(
  "content,words",
  [
    (b"", ["empty"]),
    (b"from,to\n1,2\n", ["'from', 'to'", "video", "filename", "begin"]),
    (b"video,start,end\na,1,2\n", ["lacks", "label or caption"]),
    (b"video,start_frame,end_frame,label\n", ["frames", "divide"]),
    (b"video,start,begin,stop,end,label,x\n", []),  # the exact name counts
    (b"video,begin,onset,end,label\n", ["begin", "onset", "'start'"]),
    (b"video,start,end,label\na,1,2,z\xfcrich\n", ["line 2", "UTF-8"]),
    ("video,start,end,label\n".encode("utf-16-le"), ["UTF-16"]),
    (b"video," + b"x" * 200_000, ["line 1", "larger than"]),
    (b"PK\x03\x04\x14\0", ["Excel", "CSV"]),
    (b"\xd0\xcf\x11\xe0\xa1", ["Excel", "CSV"]),
  ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, words):
  path = tmp_path / "a.csv"
  path.write_bytes(content)
  if not words:
    assert list(annotation_tables.read(path).table) == []
    return
  with pytest.raises(ValueError) as caught:
    annotation_tables.read(path)
  for word in ("a.csv", *words):
    assert word in str(caught.value)


def test_an_open_quote_names_its_line(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text('video,start,end,label\na,1,2,x\nb,3,4,"open\nc,5,6,y\n')
  table = annotation_tables.read(path)
  with pytest.raises(text_tables.TableError, match="line 3"):
    list(table.table)


def test_quoted_cells_may_hold_line_ends():
  table = text_tables.parse_table(
    'a,b\n1,"two\nlines" \n3,"four\n', name="x", columns=("a",)
  )
  rows = iter(table)
  assert next(rows).cells == {"a": "1", "b": "two\nlines"}
  with pytest.raises(text_tables.TableError, match=r"line 4.*not closed"):
    next(rows)


def test_another_encoding_by_name(tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes("video,start,end,label\na,1,2,zurück\n".encode("cp1252"))
  table = annotation_tables.read(path, encoding="cp1252")
  assert next(iter(table.table)).cells["label"] == "zurück"
  with pytest.raises(text_tables.EncodingError, match="line 2"):
    text_tables.read_text(path, encoding="ascii")
  with pytest.raises(ValueError, match="unknown encoding 'none'"):
    text_tables.read_text(path, encoding="none")


def test_cells_beyond_the_header_are_kept_apart():
  table = text_tables.parse_table(
    "id,video,start\n1,a,2,,\n2,b,3,4\n3\n", name="x", columns=("video",)
  )
  rows = list(table)
  assert [row.surplus for row in rows] == [(), ("4",), ()]
  assert rows[2].cells == {"id": "3", "video": "", "start": ""}
