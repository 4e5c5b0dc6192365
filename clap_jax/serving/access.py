"""Refuses requests of other users of this machine and of other pages.

Every local user reaches the loopback address, and every page that the browser
shows may send requests to it. The address that `clap serve` prints holds a
random token; the browser keeps it in a cookie, and nothing is answered without
it. Hosts are compared exactly, so that a name that another points at this
machine reads nothing, and so are origins.

Cookies are not separated by port: do not open pages of other users of this
machine at the same host name.
"""

import secrets
from collections.abc import Iterable, Iterator
from urllib import parse

from starlette import datastructures, responses, types

TOKEN_KEY = "token"
_TOKEN_BYTES = 32
_HTTP_PORT = 80  # browsers leave it out


def new_token() -> str:
  """Returns an unguessable token."""
  return secrets.token_urlsafe(_TOKEN_BYTES)


def address(port: int, token: str = "") -> str:
  """Returns the address of the page, with the token if one is given."""
  host = next(iter(_hosts(port)))
  query = f"?{parse.urlencode({TOKEN_KEY: token})}" if token else ""
  return f"http://{host}/{query}"


def policy(*, scripts: Iterable[str] = (), styles: Iterable[str] = ()) -> str:
  """Returns the Content-Security-Policy of every answer.

  Args:
    scripts, styles: hashes of the only inline sources that may run.
  """
  inline = {
    name: " ".join(("'self'", *(f"'{each}'" for each in hashes)))
    for name, hashes in (("script", scripts), ("style", styles))
  }
  return (
    f"default-src 'none'; script-src {inline['script']}; "
    f"style-src {inline['style']}; img-src data:; media-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; form-action 'none'; "
    "base-uri 'none'"
  )


class Guard:
  """An ASGI application around another; nothing reaches that without it."""

  def __init__(
    self,
    app: types.ASGIApp,
    *,
    port: int,
    token: str,
    content_policy: str,
  ):
    if len(token) < _TOKEN_BYTES:
      raise ValueError(
        f"the token has {len(token)} characters; expected {_TOKEN_BYTES} or "
        "more, see new_token"
      )
    self._app = app
    self._hosts = tuple(_hosts(port))
    # Cookies of two servers on one host must not replace each other.
    self._cookie = f"clap_{port}"
    self._token = token.encode()
    self._headers = {
      "Cache-Control": "no-store",
      "Content-Security-Policy": content_policy,
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cross-Origin-Resource-Policy": "same-origin",
      "Referrer-Policy": "no-referrer",
      "X-Content-Type-Options": "nosniff",
      "X-Frame-Options": "DENY",
    }

  async def __call__(
    self, scope: types.Scope, receive: types.Receive, send: types.Send
  ) -> None:
    if scope["type"] == "lifespan":
      await self._app(scope, receive, send)
      return
    if scope["type"] != "http":
      await send({"type": "websocket.close"})
      return

    async def send_with_headers(message: types.Message) -> None:
      if message["type"] == "http.response.start":
        datastructures.MutableHeaders(scope=message).update(self._headers)
      await send(message)

    answer = self._answer(scope) or self._app
    await answer(scope, receive, send_with_headers)

  def _answer(self, scope: types.Scope) -> responses.Response | None:
    """Returns what is answered in place of the page, None for the page."""
    headers = datastructures.Headers(scope=scope)
    hosts = headers.getlist("host")
    if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
      return _refusal(421, "unknown host")
    host = hosts[0].lower()
    origins = headers.getlist("origin")
    if any(origin != f"http://{host}" for origin in origins):
      return _refusal(403, "another page may not ask")
    # Browsers send no origin with what an <img> or <video> asks for, but how
    # far the page is. Links that are followed to the page itself do no harm.
    site = headers.get("sec-fetch-site", "none")
    if scope["path"] != "/" and site not in ("none", "same-origin"):
      return _refusal(403, "another page may not ask")
    given = parse.parse_qs(scope["query_string"].decode("latin-1"))
    if scope["path"] == "/" and TOKEN_KEY in given:
      return self._log_in(given[TOKEN_KEY])
    # Every candidate is compared: another server may have set a second cookie.
    if not any([self._is_token(value) for value in self._cookies(headers)]):
      return _refusal(
        403, "Open the whole address that `clap serve` printed, with its token."
      )
    return None

  def _log_in(self, tokens: list[str]) -> responses.Response:
    if len(tokens) != 1 or not self._is_token(tokens[0]):
      return _refusal(
        403, "The token is not that of this server; see what it printed."
      )
    # The token must not stay in the address bar and the history.
    response = responses.RedirectResponse("/", status_code=303)
    response.set_cookie(
      self._cookie, self._token.decode(), httponly=True, samesite="strict"
    )
    return response

  def _is_token(self, value: str) -> bool:
    given = value.encode("utf-8", "replace")
    return secrets.compare_digest(given, self._token)

  def _cookies(self, headers: datastructures.Headers) -> Iterator[str]:
    for line in headers.getlist("cookie"):
      for part in line.split(";"):
        name, _, value = part.strip().partition("=")
        if name == self._cookie:
          yield value


def _hosts(port: int) -> Iterator[str]:
  for name in ("127.0.0.1", "localhost"):
    yield name if port == _HTTP_PORT else f"{name}:{port}"


def _refusal(status: int, reason: str) -> responses.Response:
  # Without this, the body of a refused upload would still be taken in.
  headers = {"Connection": "close"}
  return responses.PlainTextResponse(reason, status, headers)
