"""Milliseconds from a click to the painted mask: JupyterLab on the loopback, headless Chromium, Mini-SAM as shipped.

    python benchmarks/canvas_latency.py [--clicks 15] [--size 512]

Measured in the page: from the browser's event to the frame after the one that shows the answer. The clicks go to places
drawn at random on a synthetic scene, each after the answer to the one before; after every five the prompts are cleared.
The time that Python takes for the prediction alone is what the canvas shows as its latency.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from lab_browser import browser, jupyter_lab, run_all, why_no_browser  # noqa: E402  (its folder is no package)

RESULTS = ROOT / "build" / "benchmarks" / "canvas_latency.json"
CODE = """
import os
import torch
if os.cpu_count() <= 2:
    torch.set_num_threads(1)  # as labhelpers.course.begin does
from labhelpers.data.scenes import draw_scene
from labhelpers.prompting import PromptCanvas, PromptSession, load_predictor

PromptCanvas(PromptSession(load_predictor("mini_sam"), draw_scene(0, "val", 2, {size}).image))
"""
# The time of the event is the browser's own, from before any script has run.
CLICK = """
([x, y]) => new Promise((done) => {
  const canvas = document.querySelector(".prompt-canvas canvas");
  const before = canvas.dataset.painted;
  const box = canvas.getBoundingClientRect();
  const place = { clientX: box.left + x * box.width, clientY: box.top + y * box.height, button: 0, bubbles: true };
  let start;
  new MutationObserver((_, observer) => {
    if (canvas.dataset.painted === before) return; // painted again, without an answer: the click itself
    observer.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
  }).observe(canvas, { attributeFilter: ["data-painted"] });
  start = performance.now();
  canvas.dispatchEvent(new PointerEvent("pointerdown", { ...place, pointerId: 1 }));
  canvas.dispatchEvent(new PointerEvent("pointerup", { ...place, pointerId: 1 }));
})
"""


def measure(clicks: int, size: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each click, and what of it the prediction took."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        cells = [nbformat.v4.new_code_cell(CODE.format(size=size))]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), Path(folder) / "clicks.ipynb")
        with jupyter_lab(Path(folder)) as server, browser() as chromium:
            page = chromium.new_page(viewport={"width": 1300, "height": 1100})
            run_all(page, server, "clicks.ipynb")
            page.wait_for_selector(".prompt-canvas canvas[data-painted]", timeout=120_000)
            whole, prediction = [], []
            for number in range(clicks):
                if number % 5 == 0:
                    page.locator(".prompt-canvas canvas").press("c")
                    page.wait_for_selector(".prompt-canvas:not([data-busy])")
                whole.append(page.evaluate(CLICK, [rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9)]))
                prediction.append(float(page.locator("[data-readout=latency]").inner_text().split()[0]))
    return whole, prediction


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clicks", type=int, default=15)
    parser.add_argument("--size", type=int, default=512, help="pixels of the scene's side")
    options = parser.parse_args()
    if reason := why_no_browser():
        print(reason, file=sys.stderr)
        return 1
    whole, prediction = measure(options.clicks, options.size)
    rows = {"click to painted mask": whole, "of which the prediction": prediction}
    print(f"| {options.clicks} clicks, {options.size} px | median ms | best | worst |\n| --- | ---: | ---: | ---: |")
    for name, values in rows.items():
        print(f"| {name} | {statistics.median(values):.0f} | {min(values):.0f} | {max(values):.0f} |")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.processor(), "size": options.size, **rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
