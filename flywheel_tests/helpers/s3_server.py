"""moto's server on a port of this machine: python -m flywheel_tests.helpers.s3_server PORT.

By itself moto looks whether a condition holds and writes in two steps, and a second request may come in between. S3 decides
conditional requests one at a time, and so does this server.
"""

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from threading import Lock
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

_MOTO = DomainDispatcherApplication(create_backend_app)
_LOCK = Lock()


def respond(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    conditional = not {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"}.isdisjoint(environ)
    with _LOCK if conditional else nullcontext():
        return _MOTO(environ, start_response)


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), respond, threaded=True, request_handler=MotoRequestHandler)
