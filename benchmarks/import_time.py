"""What importing all of labhelpers costs beyond torch.

    python benchmarks/import_time.py [rounds]

Each round starts two fresh interpreters, one after the other; the medians are printed as Markdown and kept in
build/benchmarks/import_time.json. The goal is below 0.3 s.
"""

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

TORCH = "import torch"
EVERYTHING = f"""
import labhelpers
{TORCH}
from labhelpers import config, data, evaluation, models, plots, training
from labhelpers.course import checks
"""


def seconds(code: str) -> float:
    """CPU seconds of an interpreter that runs the code: whoever else is busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int) -> None:
    seconds(EVERYTHING)  # fills the disk cache
    pairs = [(seconds(TORCH), seconds(EVERYTHING)) for _ in range(rounds)]
    torch, everything = (statistics.median(times) for times in zip(*pairs, strict=True))
    beyond = statistics.median(e - t for t, e in pairs)
    print("| import | CPU s |\n|---|---:|")
    print(f"| torch | {torch:.2f} |\n| torch and all of labhelpers | {everything:.2f} |\n| difference | {beyond:.2f} |")
    output = Path("build/benchmarks/import_time.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"pairs": pairs, "beyond": beyond}, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
