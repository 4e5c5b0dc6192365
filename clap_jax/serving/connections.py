"""Closes connections that never complete a request.

Any local user can open connections to the port. Without a time limit on the
headers, a few hundred silent connections would lock the owner out; a limit on
their number would lock the owner out, too.
"""

import asyncio

from uvicorn.protocols.http import h11_impl

HEADER_SEC = 10.0


class HeaderTimeoutProtocol(h11_impl.H11Protocol):
  """HTTP/1.1 with a time limit of HEADER_SEC on the headers.

  The time starts with the connection and restarts after each response. Bodies
  have their own limits, see bodies.py.
  """

  header_sec = HEADER_SEC
  _timer: asyncio.TimerHandle | None = None

  def connection_made(self, transport: asyncio.Transport) -> None:
    super().connection_made(transport)
    self._start_timer()

  def on_response_complete(self) -> None:
    super().on_response_complete()
    self._start_timer()

  def connection_lost(self, exc: Exception | None) -> None:
    self._stop_timer()
    super().connection_lost(exc)

  def _start_timer(self) -> None:
    self._stop_timer()
    loop = asyncio.get_running_loop()
    self._timer = loop.call_later(self.header_sec, self._close_if_idle)

  def _stop_timer(self) -> None:
    if self._timer is not None:
      self._timer.cancel()

  def _close_if_idle(self) -> None:
    if self.cycle is None or self.cycle.response_complete:
      self.transport.abort()
