"""Makes hivenode/pb from protos/; with --check only says whether the committed stubs are what protos/ gives.

The stubs of protobuf carry the version of the generator, so the check compares with comments and version lines left out.
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "hivenode" / "pb"
VERSION_LINES = re.compile(
    r"^(#.*|GRPC_(GENERATED_)?VERSION.*|\s*\d+,|\s*'(DEV|)',|.*ValidateProtobufRuntimeVersion.*)$", re.M
)


def generate(target: Path) -> None:
    """Writes the stubs of every file in protos/ into `target`. Raises SystemExit when protoc fails."""
    protos = sorted((ROOT / "protos").glob("*.proto"))
    include = str(resources.files("grpc_tools") / "_proto")
    arguments = [
        "protoc",
        f"-I{ROOT / 'protos'}",
        f"-I{include}",
        f"--python_out={target}",
        f"--pyi_out={target}",
        *map(str, protos),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")


def main() -> None:
    if "--check" not in sys.argv[1:]:
        generate(TARGET)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            committed = TARGET / path.name
            fresh = VERSION_LINES.sub("", path.read_text())
            if not committed.exists() or VERSION_LINES.sub("", committed.read_text()) != fresh:
                raise SystemExit(f"{committed} is not what protos/ gives: run python scripts/generate_stubs.py")


if __name__ == "__main__":
    main()
