"""`python -m tests.security.guided DECODER --runs N`: one decoder under mutations guided by coverage (atheris).

Ends with 0 when nothing but the allowed errors came; else atheris prints the input and ends with another code.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any


def available() -> bool:
    return importlib.util.find_spec("atheris") is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("decoder")
    parser.add_argument("--runs", type=int, default=10_000)
    options = parser.parse_args()
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["hivenode"], exclude=["hivenode.pb"]):
        registry = importlib.import_module("tests.security.decoders")
    decoder = registry.decoders()[options.decoder]

    def one(data: bytes) -> None:
        with contextlib.suppress(*decoder.errors):
            decoder.call(data)

    with tempfile.TemporaryDirectory(prefix="hn-corpus-") as corpus:
        for number, seed in enumerate(decoder.seeds):
            Path(corpus, f"seed{number}").write_bytes(seed)
        arguments = [sys.argv[0], f"-runs={options.runs}", "-max_len=4096", "-seed=1", "-verbosity=0", corpus]
        atheris.Setup(arguments, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
