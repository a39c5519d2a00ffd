"""atheris looks for new paths through our own parsers, from valid files on: `pip install atheris`, then

    python benchmarks/fuzz.py [-max_total_time=300]

Stops at the first file that crashes the process, or whose error does not name it; options are libFuzzer's.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["labhelpers"]):
    from damaged_files import all_kinds, told

PARSERS = ("list of a split", "list of classes", "CSV, log.csv", "JSON, results table", "PNG, labels", "TIFF, labels")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.environ["LAB_HOME"] = str(Path(name, "home"))
        kinds = [kind for kind_name, kind in all_kinds(Path(name, "files")).items() if kind_name in PARSERS]
        assert len(kinds) == len(PARSERS)
        seeds = Path(name, "seeds")
        seeds.mkdir()
        for number, kind in enumerate(kinds):
            for base, data in enumerate(kind.bases):
                (seeds / f"{number}-{base}").write_bytes(bytes([number]) + data)

        def read(data: bytes) -> None:
            kind = kinds[data[0] % len(kinds)] if data else kinds[0]
            kind.path.write_bytes(data[1:])
            _, said, error = told(kind)
            named = any(part in said for part in (kind.path.name, str(kind.path.parent), kind.named) if part)
            assert error is None or (isinstance(error, ValueError | RuntimeError | OSError) and named), repr(error)

        atheris.Setup([*(sys.argv if len(sys.argv) > 1 else (sys.argv[0], "-max_total_time=300")), str(seeds)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
