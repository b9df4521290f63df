"""Who may speak to a local HTTP server: protection of a person's own machine against web pages (DNS rebinding).

2025-11-25 and 2026-07-28, "Streamable HTTP", "Security Warning": servers MUST
validate the Origin header, and should bind to localhost. The Host header is
checked, too: a page whose name was made to point here sends its own name. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from mcp_bridge.front.backend import Headers

__all__ = ["Access", "values"]

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Access:
    """`hosts` and `origins` in lower case; `browsers` are the origins whose pages get CORS headers."""

    hosts: frozenset[str]
    origins: frozenset[str]
    browsers: frozenset[str] = frozenset()

    @classmethod
    def bound_to(
        cls, host: str, port: int, *, allow_hosts: Iterable[str] = (), allow_origins: Iterable[str] = ()
    ) -> "Access":
        """The names of the address bound, with its port, and what a person added.

        An allowed host without a port gets the bound one; an allowed origin is complete: `https://app.example`.
        """
        own = host if ":" not in host or host.startswith("[") else f"[{host}]"
        names = {own, *_LOOPBACK} if own in _LOOPBACK or own in ("0.0.0.0", "[::]") else {own}  # noqa: S104 - a name
        hosts = {f"{name}:{port}" for name in names} | ({*names} if port == 80 else set())
        hosts |= {name if urlsplit(f"//{name}").port else f"{name}:{port}" for name in allow_hosts}
        browsers = frozenset(origin.lower().rstrip("/") for origin in allow_origins)
        own_pages = {f"http://{name}" for name in hosts}
        return cls(frozenset(name.lower() for name in hosts), frozenset(own_pages) | browsers, browsers)

    def flaw(self, headers: Headers) -> str:
        """Why a request is refused, in a sentence; "" for a good one."""
        hosts, origins = values(headers, "host"), values(headers, "origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return "the Host header does not name this server: --allow-host adds names"
        if len(origins) > 1 or (origins and origins[0].lower() not in self.origins):
            return "the Origin header names a page that may not speak to this server: --allow-origin adds origins"
        return ""

    def browser(self, headers: Headers) -> str:
        """The origin to name in CORS headers; "" for a request that gets none."""
        origins = values(headers, "origin")
        return origins[0] if origins and origins[0].lower() in self.browsers else ""


def values(headers: Headers, name: str) -> list[str]:
    """Every value of a header."""
    return [value for key, value in headers if key == name]
