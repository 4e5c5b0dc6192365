"""Rejects requests of other local users and of other web pages.

Any local user can reach the loopback address, and any page in the browser can
send requests to it. The address that `clap serve` prints contains a random
token. The browser keeps it in a cookie, and every request needs it. Hosts and
origins are compared exactly, which prevents DNS rebinding.

Cookies are not separated by port: do not open pages of other users of this
machine under the same host name.
"""

import secrets
from collections.abc import Iterable, Iterator
from urllib import parse

from starlette import datastructures, responses, types

TOKEN_KEY = "token"
_TOKEN_BYTES = 32
_HTTP_PORT = 80  # browsers omit it


def new_token() -> str:
  """Returns an unguessable token."""
  return secrets.token_urlsafe(_TOKEN_BYTES)


def address(port: int, token: str = "") -> str:
  """Returns the address of the page, with the token if one is given."""
  host = next(iter(_hosts(port)))
  query = f"?{parse.urlencode({TOKEN_KEY: token})}" if token else ""
  return f"http://{host}/{query}"


def policy(*, scripts: Iterable[str] = (), styles: Iterable[str] = ()) -> str:
  """Returns the Content-Security-Policy of every response.

  Args:
    scripts: hashes of the inline scripts that may run.
    styles: hashes of the inline styles that may apply.
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
  """ASGI middleware that checks every request to an application."""

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
        "more, as from new_token"
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
    """Returns a rejection or a login, or None for a valid request."""
    headers = datastructures.Headers(scope=scope)
    hosts = headers.getlist("host")
    if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
      return _refusal(421, "unknown host")
    host = hosts[0].lower()
    origins = headers.getlist("origin")
    if any(origin != f"http://{host}" for origin in origins):
      return _refusal(403, "requests from other pages are not allowed")
    # Requests of <img> and <video> have no origin, but Sec-Fetch-Site. A link
    # to the main page is harmless.
    site = headers.get("sec-fetch-site", "none")
    if scope["path"] != "/" and site not in ("none", "same-origin"):
      return _refusal(403, "requests from other pages are not allowed")
    given = parse.parse_qs(scope["query_string"].decode("latin-1"))
    if scope["path"] == "/" and TOKEN_KEY in given:
      return self._log_in(given[TOKEN_KEY])
    # All cookies are compared: another server may have set a second one.
    if not any([self._is_token(value) for value in self._cookies(headers)]):
      return _refusal(
        403, "Open the full address that `clap serve` printed, with its token."
      )
    return None

  def _log_in(self, tokens: list[str]) -> responses.Response:
    if len(tokens) != 1 or not self._is_token(tokens[0]):
      return _refusal(
        403, "The token is invalid; open the address that `clap serve` printed."
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
  # Otherwise the body of a rejected upload would still be received.
  headers = {"Connection": "close"}
  return responses.PlainTextResponse(reason, status, headers)
