"""`clap sensors`: computes features of sensor recordings."""

from etils import epy

from clap_jax.console import console

with epy.lazy_imports():
  from clap_jax.data import sensors


def add_sensors(commands) -> None:
  parser = commands.add_parser(
    "sensors",
    help="write features of sensor recordings, window by window",
    description="Statistics of sliding windows of UCI HAPT's recordings, one "
    ".npz per recording as `clap extract` writes it, and its labels as "
    "annotations.json.",
  )
  parser.add_argument("recordings", help="folder RawData, or an .npz")
  parser.add_argument("--out", required=True)
  parser.add_argument("--rate_hz", type=float, default=50.0)
  parser.add_argument("--window_samples", type=int, default=64)
  parser.add_argument("--stride_samples", type=int, default=16)
  parser.set_defaults(run=_sensors)


def _sensors(args) -> dict:
  written = sensors.write_window_features(
    args.recordings,
    args.out,
    rate_hz=args.rate_hz,
    window_samples=args.window_samples,
    stride_samples=args.stride_samples,
  )
  console.print(
    f"{len(written)} recordings; features and annotations lie in {args.out}"
  )
  return {"written": written}
