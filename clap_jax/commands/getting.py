"""`clap get`: fetches public weights by name."""

import rich.table
from etils import epy

from clap_jax.commands import weights
from clap_jax.console import Progress, console, one_line
from clap_jax.public_weights import cache, table
from clap_jax.storage import output

with epy.lazy_imports():
  from clap_jax.interchange import get_public

_MIB = 1 << 20
_OPTIONS = ("num_frames", "tubelet_frames", "max_text_length")


def add_get(commands) -> None:
  parser = commands.add_parser(
    "get",
    help="download public weights by name, for --model and for training",
    description="Downloads a public checkpoint, checks its SHA-256, imports it "
    f"and keeps it in {cache.VARIABLE} (default: ~/.cache/clap_jax). An "
    "interrupted download resumes. Afterwards --model takes the name: clap "
    "predict VIDEO --model NAME --query TEXT. No other command downloads "
    "anything.",
  )
  parser.add_argument("name", nargs="?", help="a name from --list")
  parser.add_argument(
    "--list",
    action="store_true",
    help="list names, licences and what is downloaded",
  )
  parser.add_argument(
    "--out", metavar="DIR", help="directory to import to, instead of the cache"
  )
  parser.add_argument(
    "--from",
    dest="place",
    metavar="URL_OR_DIR",
    help="mirror, local server or folder to read instead of the publisher's "
    "address, or the weights file in it",
  )
  parser.add_argument(
    "--revision",
    default="",
    help="commit of the Hugging Face repository, instead of the listed one",
  )
  parser.add_argument(
    "--sha256",
    action="append",
    default=[],
    metavar="[FILE=]HEX",
    help="expected hash of the weights or of FILE, if not the published one",
  )
  for option in _OPTIONS:
    parser.add_argument(
      f"--{option}", type=int, help="see `clap import`; requires --out"
    )
  parser.set_defaults(run=_get, show=_show)


def _get(args) -> dict:
  if args.list == bool(args.name):
    raise ValueError("expected either a name or --list.")
  if args.list:
    return {"models": [_described(entry) for entry in table.ENTRIES.values()]}
  entry = table.find(args.name)
  _print_terms(entry, args.place)
  if args.out is not None:
    output.check_links(args.out)
  given = {n: getattr(args, n) for n in _OPTIONS if getattr(args, n)}
  with Progress(f"{entry.name}, MiB") as progress:
    got = get_public.get(
      entry.name,
      out=args.out,
      place=args.place,
      revision=args.revision,
      sha256=dict(_name_and_hash(text) for text in args.sha256),
      options=given,
      on_wait=lambda: console.print(
        f"waiting: another `clap get {entry.name}` is running"
      ),
      on_progress=lambda _, done, total: progress(
        done // _MIB, max(total, done) // _MIB
      ),
    )
  if got.imported is None:
    console.print(
      f"{entry.name} is already in {got.directory}; remove "
      f"{got.directory.parent} to download it again",
      soft_wrap=True,
    )
  else:
    weights.print_conversion(got.imported)
  document = {
    "name": entry.name,
    "source": got.record["source"],
    "revision": got.record["revision"] or None,
    "sha256": got.sha256,
    "licence": entry.licence,
    "directory": str(got.directory),
    "files": got.record["files"],
  }
  if got.imported is not None:
    document |= {"flags": list(got.imported.flags)}
  return document


def _name_and_hash(text: str) -> tuple[str, str]:
  name, _, value = text.rpartition("=")
  return name, value


def _print_terms(entry: table.Entry, place: str | None) -> None:
  """Prints the name, size, licence and origin before the download."""
  for line in (
    f"{entry.name}: {entry.purpose}; about {entry.about_bytes / 1e6:,.0f} MB",
    f"licence: {entry.licence}, see {entry.page}",
    f"from: {place or entry.place}",
  ):
    console.print(one_line(line), highlight=False, soft_wrap=True)


def _described(entry: table.Entry) -> dict:
  is_there = cache.is_there(entry.name)
  record = cache.read_record(entry.name)
  found = [
    file["sha256"]
    for file in record.get("files", ())
    if file["name"] == record["weights"]
  ]
  return {
    "name": entry.name,
    "source": entry.place,
    "sha256": entry.weights[0].sha256 or None,
    "fetched_sha256": found[0] if found else None,
    "licence": entry.licence,
    "page": entry.page,
    "about_bytes": entry.about_bytes,
    "format": entry.source,
    "purpose": entry.purpose,
    "directory": str(cache.encoder_of(entry.name)) if is_there else None,
  }


def _show(args, document: dict) -> None:
  if "models" not in document:
    for file in document["files"]:
      console.print(
        f"{one_line(file['name'])}: SHA-256 {file['sha256']}, stated by "
        f"{file.get('hash_stated_by', 'the first download')}",
        highlight=False,
        soft_wrap=True,
      )
    return
  shown = rich.table.Table()
  shown.add_column("name", no_wrap=True)
  for column in ("MB", "licence", "for", "downloaded"):
    shown.add_column(column)
  for model in document["models"]:
    shown.add_row(
      model["name"],
      f"{model['about_bytes'] / 1e6:,.0f}",
      model["licence"],
      model["purpose"],
      "yes" if model["directory"] else "",
    )
  console.print(shown)
  console.print(f"kept in {cache.root()}", soft_wrap=True)
