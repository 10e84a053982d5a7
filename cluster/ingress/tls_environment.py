"""How Serve's processes learn of `tls`: paths, in a variable that must stand before Ray's processes start."""

import json
import os
from dataclasses import asdict

from cluster.config.schema import TLSConfig

TLS_VARIABLE = "BATON_INGRESS_TLS"


def tls_variable(tls: TLSConfig) -> dict[str, str]:
    return {TLS_VARIABLE: json.dumps(asdict(tls)) if tls.is_on else ""}


def tls_of_environment() -> TLSConfig:
    found = os.environ.get(TLS_VARIABLE)
    return TLSConfig(**json.loads(found)) if found else TLSConfig()
