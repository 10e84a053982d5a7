"""What HAProxy adds to answers of its own, a lost replica's 503 for one: an id, and what lets web pages read them.

Replicas have put both into theirs, and those stay as they are; so do gRPC's, whose calls have an id in their trailers.
"""

import re
from collections.abc import Collection

from cluster.config.origins import ANY
from cluster.ingress.cross_origin import EXPOSED
from cluster.ingress.request_ids import HEADER, MAX_LENGTH

_ID, _ORIGIN, _PLAIN = "txn.baton_request_id", "txn.baton_origin", "txn.baton_plain"
_ALLOW, _EXPOSE = "access-control-allow-origin", "access-control-expose-headers"
_IF_PLAIN = f"{{ var({_PLAIN}) -m bool }}"


def answer_rules(origins: Collection[str]) -> list[str]:
    """Of a public port; they stand before all rules that answer."""
    is_sane = f"{{ req.hdr({HEADER}) -m reg ^[\\x20-\\x7e]{{1,{MAX_LENGTH}}}$ }}"
    return [
        f"http-request set-var({_PLAIN}) bool(true) if !{{ req.hdr(content-type) -m beg application/grpc }}",
        f"http-request set-var({_ID}) req.hdr({HEADER}) if {is_sane}",
        f"http-request set-var({_ID}) uuid if !{{ var({_ID}) -m found }}",
        f"http-after-response set-header {HEADER} %[var({_ID})] if {_IF_PLAIN} !{{ res.hdr({HEADER}) -m found }}",
        *(_cors_rules(origins) if origins else ()),
    ]


def _cors_rules(origins: Collection[str]) -> list[str]:
    known = "-m found" if ANY in origins else f"-m reg ^({'|'.join(re.escape(one) for one in sorted(origins))})$"
    shown = ANY if ANY in origins else f"%[var({_ORIGIN})]"
    condition = f"if {_IF_PLAIN} {{ var({_ORIGIN}) -m found }} !{{ res.hdr({_ALLOW}) -m found }}"
    return [
        f"http-request set-var({_ORIGIN}) req.hdr(origin) if {{ req.hdr(origin) {known} }}",
        f'http-after-response set-header {_EXPOSE} "{", ".join(EXPOSED)}" {condition}',
        f"http-after-response add-header vary origin {condition}",
        f"http-after-response set-header {_ALLOW} {shown} {condition}",
    ]
