"""How Serve's processes learn of `http.cors_origins`: a variable that must stand before Ray's processes start."""

import json
import os
from collections.abc import Collection

ORIGINS_VARIABLE = "BATON_INGRESS_CORS_ORIGINS"


def origins_variable(origins: Collection[str]) -> dict[str, str]:
    return {ORIGINS_VARIABLE: json.dumps(list(origins)) if origins else ""}


def origins_of_environment() -> tuple[str, ...]:
    found = os.environ.get(ORIGINS_VARIABLE)
    return tuple(json.loads(found)) if found else ()
