"""For all tests. hivenode comes before grpc here as in the daemon: gRPC reads once, when imported, what TLS may negotiate."""

import hivenode

TLS12_SUITES = hivenode.TLS12_SUITES
