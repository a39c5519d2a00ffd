"""The site: what Sphinx reads for `make site`.

Its pages are the repository's own documents and notebooks, copied with their links mended, so that nothing stands
twice; the reference comes from the docstrings. Of the notebooks it shows what students get, with the stored outputs.
"""

import posixpath
import re
import shutil
from pathlib import Path

import nbformat

from labhelpers.course.release import repository, student_version
from labhelpers.course.run import find_notebooks, read_notebook

ROOT = Path(__file__).parent.parent
REPOSITORY = repository(ROOT)

# A document of the repository: its page.
REFERENCE = {
    "benchmarks/README.md": "reference/benchmarks.md",
    "checkpoints/mini_sam.md": "reference/mini_sam.md",
    "checkpoints/encoders.md": "reference/encoders.md",
    "data/README.md": "reference/data_sets.md",
    "THIRD_PARTY_NOTICES.md": "reference/notices.md",
    "CONTRIBUTING.md": "reference/contributing.md",
    "CHANGELOG.md": "reference/changelog.md",
}
GUIDES = {f"docs/{path.name}": path.name for path in sorted(ROOT.glob("docs/*.md"), reverse=True)}  # students first
LABS = {f"notebooks/{path.name}": f"labs/{path.name}" for path in find_notebooks(ROOT / "notebooks")}
PAGES = {"README.md": "index.md", **GUIDES, **LABS, **REFERENCE}
PACKAGES = ("data", "models", "evaluation", "plots", "training", "prompting", "course")
LINK = re.compile(r'(?<=\]\()[^()\s]+(?=\))|(?<= src=")[^"]+(?=")')

NOTE = """
```{note}
You see what students get: answers are left out, and so are their outputs. All other outputs are those of a run with the
answers, in the profile `smoke`, on two CPU cores.
```
"""

project = "Segmentation Labs"
author = project
project_copyright = "Segmentation Labs; text and figures under CC BY 4.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "literal"  # `name` in a docstring is code
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4  # as on GitHub, whose links lead to them
autodoc_default_options = {"members": True, "imported-members": True}
autodoc_typehints = "none"  # they stand in the signatures
napoleon_use_rtype = False
html_theme = "pydata_sphinx_theme"
html_title = project
html_theme_options = {
    "icon_links": [{"name": "GitHub", "url": REPOSITORY, "icon": "fa-brands fa-github"}],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_copy_source = False
html_sidebars = {"*": []}  # only pages of a section, in folders, have others beside them
html_math_renderer = "mathml"


def site_link(link: str, source: str) -> str:
    """Where a link of the document `source` leads on the site: to a page, a picture, or the file on GitHub.

    Raises:
        ValueError: the repository has no such file.
    """
    path, hash_, anchor = link.removeprefix(f"{REPOSITORY}/blob/main/").partition("#")
    folder = posixpath.dirname(source) if link.startswith(path) else ""
    target = posixpath.normpath(posixpath.join(folder, path))
    if not path or "://" in path or path.startswith("mailto:"):
        return link
    if not (ROOT / target).exists():
        raise ValueError(f"{source} links to {link}, and there is no {target}: mend the link")
    if target.startswith("docs/") and target.endswith(".png"):
        return "/" + posixpath.basename(target)
    if target in PAGES:
        return posixpath.relpath(PAGES[target], posixpath.dirname(PAGES[source]) or ".") + hash_ + anchor
    return f"{REPOSITORY}/{'tree' if (ROOT / target).is_dir() else 'blob'}/main/{target}{hash_}{anchor}"


def site_text(text: str, source: str) -> str:
    """Markdown of the document `source`, with its links mended."""
    return LINK.sub(lambda found: site_link(found[0], source), text)


def site_notebook(source: str) -> nbformat.NotebookNode:
    """The student version with the outputs of all cells that it leaves as they are, and their descriptions."""
    outputs = {cell.id: (cell.source, cell.get("outputs")) for cell in read_notebook(ROOT / source).cells}
    notebook = student_version(ROOT / source)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = site_text(cell.source, source)
            continue
        before, stored = outputs[cell.id]
        if cell.source == before:
            cell.outputs = stored
        said = [shown.alt for output in cell.outputs for shown in output.get("metadata", {}).values() if "alt" in shown]
        if said:
            cell.metadata["mystnb"] = {"image": {"alt": "; ".join(said)}}
    first = notebook.cells[0]
    first.source = re.sub("^(# .*)$", rf"\1\n{NOTE}", first.source, count=1, flags=re.MULTILINE)
    return notebook


def write_sources(app) -> None:
    """Fills the folder that Sphinx reads."""
    for folder in ("labs", "reference"):
        (app.srcdir / folder).mkdir(exist_ok=True)
    for source, page in PAGES.items():
        if page.endswith(".ipynb"):
            nbformat.write(site_notebook(source), app.srcdir / page)
        else:
            (app.srcdir / page).write_text(site_text((ROOT / source).read_text(), source))
    for picture in ROOT.glob("docs/*.png"):
        shutil.copy(picture, app.srcdir)
    for package in PACKAGES:
        text = f"# labhelpers.{package}\n\n```{{eval-rst}}\n.. automodule:: labhelpers.{package}\n```\n"
        (app.srcdir / "reference" / f"{package}.md").write_text(text)
    labs = [posixpath.basename(page) for page in LABS.values()]
    (app.srcdir / "labs/index.md").write_text("# Labs\n" + toctree(":maxdepth: 1", labs))
    reference = [f"{name}.md" for name in PACKAGES] + [posixpath.basename(page) for page in REFERENCE.values()]
    (app.srcdir / "reference/index.md").write_text("# Reference\n" + toctree(":maxdepth: 1", reference))
    with (app.srcdir / "index.md").open("a") as file:
        file.write(toctree(":hidden:", [*GUIDES.values(), "labs/index.md", "reference/index.md"]))


def toctree(option: str, pages: list[str]) -> str:
    return "\n".join(["", "```{toctree}", option, "", *pages, "```", ""])


def write_math(translator, node) -> None:
    """Formulas as MathML, which browsers draw themselves: no script from elsewhere."""
    import latex2mathml.converter
    from docutils import nodes

    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("builder-inited", write_sources)
