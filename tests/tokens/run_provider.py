"""Runs Canaille, an OpenID provider from PyPI, with one user and two clients; prints its issuer URL when it is up.

`python run_provider.py DIRECTORY`. SIGUSR1 rotates its signing key: the old one is kept for verification and published
beside the new one, as its manual says to do.
"""

import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

SECRET = "provider-secret"


def new_key() -> dict[str, str]:
    return dict(RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True))


def client(client_id: str) -> models.Client:
    """A confidential client with every grant that needs no browser."""
    made = models.Client(
        client_id=client_id,
        client_secret=SECRET,
        client_name=client_id,
        client_uri="http://127.0.0.1/",
        redirect_uris=["http://127.0.0.1/callback"],
        grant_types=["password", "client_credentials", "refresh_token"],
        response_types=["code", "token", "id_token"],
        scope=["openid", "profile", "groups"],
        token_endpoint_auth_method="client_secret_basic",
    )
    Backend.instance.save(made)
    return made


def main(directory: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = {
        "SECRET_KEY": "a secret of the provider's own",
        "SERVER_NAME": f"127.0.0.1:{port}",
        "PREFERRED_URL_SCHEME": "http",
        "CANAILLE": {"DATABASE": "memory", "LOGGING": {"version": 1}, "JAVASCRIPT": False},
        "CANAILLE_OIDC": {"ACTIVE_JWKS": [new_key()], "INACTIVE_JWKS": []},
    }
    app = create_app(config)
    logging.disable(logging.WARNING)
    with app.app_context():
        alice = models.User(
            user_name="alice",
            family_name="Liddell",
            formatted_name="Alice Liddell",
            emails=["alice@example.org"],
            password="wonderland",
        )
        Backend.instance.save(alice)
        group = models.Group(display_name="analyst", members=[alice])
        Backend.instance.save(group)
        gateway = client("mcp-gateway")
        gateway.audience = [gateway]
        Backend.instance.save(gateway)
        other = client("elsewhere")
        other.audience = [other]
        Backend.instance.save(other)

    def rotate(_signal: int, _frame: FrameType | None) -> None:
        oidc = app.config["CANAILLE_OIDC"]
        oidc["INACTIVE_JWKS"] = [*oidc["ACTIVE_JWKS"], *oidc["INACTIVE_JWKS"]]
        oidc["ACTIVE_JWKS"] = [new_key()]
        (directory / "rotated").touch()

    signal.signal(signal.SIGUSR1, rotate)
    server = make_server("127.0.0.1", port, app, threaded=True, fd=os.dup(listener.fileno()))
    print(f"http://127.0.0.1:{port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
