"""hivenode: one daemon, the same on every machine, that turns a set of machines into a compute hive."""

from __future__ import annotations

import os
from typing import Final

TLS12_SUITES: Final = "ECDHE-RSA-AES256-GCM-SHA384"
"""gRPC offers no way to set the least TLS version from Python. Under TLS 1.2 these are the only suites then, and none of them can
be used with the ECDSA certificates that nodes have; the suites of TLS 1.3 are not touched by it. gRPC reads it when it is
imported, so it must stand before."""

os.environ["GRPC_SSL_CIPHER_SUITES"] = TLS12_SUITES
