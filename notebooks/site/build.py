"""The site: `python notebooks/site/build.py [OUT] [--quick]`, or `make site`, writes out/site/: no server, no network.

The lessons are run with their film strips in the saved output, so that sliders work without a kernel; what ran before and did
not change is kept in out/site-runs/. `--quick` takes the committed outputs instead: small multiples where strips would be.
Then the pages' sources are written (lessons, results, student versions of the assignments, the packages' docstrings, the
glossary), and Sphinx turns them into HTML.
"""

import argparse
import base64
import hashlib
import html
import importlib
import math
import os
import pkgutil
import re
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import files
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[2]
HERE, NOTEBOOKS = Path(__file__).parent, ROOT / "notebooks"
PACKAGES = ("apo_edu", "toys", "full")
WORDS_ARE_IN = "Every word of the lessons, and every number that a run writes, is in the [glossary](glossary.rst)."
# An address such as https://example.org/apo_edu: links to code and "open in Colab" need one.
REPOSITORY = os.environ.get("APO_EDU_REPOSITORY", "").rstrip("/")


def lessons() -> list[Path]:
    """The lessons' notebooks, in order."""
    return sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def run(path: Path, kept: Path) -> nbformat.NotebookNode:
    """The lesson with the outputs of a run, film strips among them; a run of the same lesson and code is read again."""
    digest = hashlib.sha256(os.environ.get("APO_EDU_STRIPS", "").encode())
    sources = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    for file in [*sorted(sources), *sorted(NOTEBOOKS.rglob("*.csv"))]:
        digest.update(file.read_bytes())
    book = nbformat.read(path, as_version=4)
    digest.update("\0".join(f"{cell.metadata.get('tags', '')}{cell.source}" for cell in book.cells).encode())
    file = kept / f"{path.stem}-{digest.hexdigest()[:16]}.ipynb"
    if file.exists():
        return nbformat.read(file, as_version=4)
    print(f"running {path.name}", flush=True)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    for old in kept.glob(f"{path.stem}-*.ipynb"):
        old.unlink()
    kept.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, file)
    return book


def page_of(book: nbformat.NotebookNode, name: str, folder: str, out: Path) -> nbformat.NotebookNode:
    """The notebook as a page: pictures with alternative texts, live strips, folded code where the lesson folds it."""
    from toys.lab import NOTICE

    title, *cells = [cell for cell in book.cells if "google.colab" not in cell.source]
    assert title.cell_type == "markdown", name
    title.source = title.source.replace(f"{NOTICE}\n\n", "")
    if folder == "notebooks":
        cells = without_kernel(cells)
    number = 0
    for cell in cells:
        cell.metadata.pop("nbgrader", None)
        if cell.cell_type != "code":
            continue
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
        for output in cell.outputs:
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if "text/html" in data or "image/png" not in data:
                continue
            number += 1
            png = base64.b64decode(data["image/png"])
            picture = out / "_static" / "lessons" / f"{name}-{number}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(png)
            about = output.metadata.get("image/png", {})
            alt = about.get("alt") or data.get("text/plain", "")
            width = about.get("width") or min(Image.open(picture).width, 960)
            shown = f'<img src="../_static/lessons/{picture.name}" alt="{html.escape(alt)}" width="{width}">'
            output.data = {"text/html": f'<div class="apo-picture" style="--wide: {width}px">{shown}</div>'}
    links = [f'<a download href="../_static/notebooks/{name}.ipynb">download the notebook</a>']
    if REPOSITORY.startswith("https://github.com/"):
        where = REPOSITORY.removeprefix("https://github.com/")
        links.append(
            f"[open in Colab](https://colab.research.google.com/github/{where}/blob/main/{folder}/{name}.ipynb)"
        )
    start = f"*To read here; its checks need a kernel: open `{name}.ipynb` in JupyterLab; {', '.join(links)}.*"
    if folder == "notebooks":
        start = (
            "*Here it works without a kernel; its words are in the [glossary](../glossary.rst). To change its code: "
            f"`make lab`, then `{name}.ipynb`; {', '.join(links)}.*"
        )
    book.cells = [title, nbformat.v4.new_markdown_cell(start), *cells]
    book.metadata.pop("widgets", None)
    return book


def without_kernel(cells: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The cells without those that only a kernel can use: the stub of a "write it" exercise, and its check."""
    checks = {i for i, cell in enumerate(cells) if cell.cell_type == "code" and cell.source.startswith("check(")}
    stubs = {i - 1 for i in checks if cells[i - 1].source.rstrip().endswith("...")}
    return [cell for i, cell in enumerate(cells) if i not in checks | stubs]


def row_of(book: nbformat.NotebookNode, name: str) -> str:
    """A row of the table of lessons: title with link, minutes, level, what one can predict afterwards."""
    text = book.cells[0].source
    title = text.splitlines()[0].lstrip("# ")
    facts = [(re.search(rf"\*\*{key}:\*\* (.+)", text) or ["", "-"])[1] for key in ("Time", "Level")]
    after = re.search(r"\*\*After this lesson you can predict\*\*\s+((?:- .+\n?)+)", text)
    aims = [line.removeprefix("- ") for line in after[1].splitlines() if line.startswith("- ")] if after else ["-"]
    return f"| [{title}]({name}.ipynb) | {facts[0]} | {facts[1]} | {'; '.join(aims)} |"


def settle_links(text: str, here: Path, pages: set[Path]) -> str:
    """Relative links that lead to no page become links into the repository, or, where it has no address, plain words."""

    def settle(match: re.Match) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:|_static|\.\./_static", target) or not target:
            return match[0]
        found = (here.parent / target).resolve()
        if found in pages:
            return f"[{words}]({os.path.relpath(found, here.parent)}{anchor})"
        if REPOSITORY and found.is_relative_to(ROOT):
            return f"[{words}]({REPOSITORY}/blob/main/{found.relative_to(ROOT)}{anchor})"
        return words

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#\s]*)(#[^)\s]*)?\)", settle, text)


def modules(package: str) -> Iterable[str]:
    """The package and its modules that have a public name, sorted; not the commands and not the tests' helpers."""
    yield package
    for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
        if not module.name.rsplit(".", 1)[1].startswith("_"):
            yield module.name


def exported(module: str) -> str:
    """A line of links to what a package hands on from its modules, each of which has its place there; "" for a module."""
    package = importlib.import_module(module)
    found = {name: getattr(getattr(package, name), "__module__", module) for name in getattr(package, "__all__", ())}
    links = [f":py:obj:`{name} <{where}.{name}>`" for name, where in sorted(found.items()) if where != module]
    return f"\nImport from here: {', '.join(links)}.\n" if links else ""


def write_api(out: Path) -> None:
    folder = out / "api"
    folder.mkdir()
    told = {
        "apo_edu": "The core: pure PyTorch functions, one equation each.",
        "toys": "Bandits, mixtures, widgets, experiments and the course.",
        "full": "The trainer of language models.",
    }
    for package in PACKAGES:
        names = list(modules(package))
        for name in names:
            members = "" if name in PACKAGES else "\n   :members:\n   :ignore-module-all:\n   :show-inheritance:"
            title = name.replace("_", "\\_")
            text = f"{title}\n{'=' * len(title)}\n\n.. automodule:: {name}{members}\n{exported(name)}"
            (folder / f"{name}.rst").write_text(text, encoding="utf-8")  # docstrings are reStructuredText to Sphinx
        tree = "\n".join(names)
        (folder / f"{package}-index.md").write_text(
            f"# The package {package}\n\n{told[package]}\n\n```{{toctree}}\n:maxdepth: 1\n\n{tree}\n```\n",
            encoding="utf-8",
        )
    rows = "\n".join(f"- [{package}]({package}-index.md): {told[package]}" for package in PACKAGES)
    tree = "\n".join(f"{package}-index" for package in PACKAGES)
    (folder / "index.md").write_text(
        f"# The packages\n\nImports run one way: notebooks → toys → apo_edu ← full.\n\n{rows}\n\n"
        f"```{{toctree}}\n:hidden:\n:maxdepth: 1\n\n{tree}\n```\n",
        encoding="utf-8",
    )


def write_glossary(out: Path, books: Iterable[str]) -> None:
    """The words of the lessons and the numbers that a run writes, each with a place to link to."""
    from full.report.glossary import METRICS
    from toys.glossary import WORDS

    def plain(text: str) -> str:
        return re.sub(r"([\\*`|_])", r"\\\1", text)

    def bound(end: float | str) -> str:
        return f"``{end}``" if isinstance(end, str) else f"{end:g}" if math.isfinite(end) else "any"

    files = {name[:2]: name for name in books}
    told = {
        name: (plain(word.meaning), f":doc:`Lesson {word.lesson} <lessons/{files[word.lesson]}>`.")
        for name, word in WORDS.items()
    }
    for name, entry in METRICS.items():
        unit = f", in {plain(entry.unit)}" if entry.unit else ""
        scope = f"In a run: from {bound(entry.low)} to {bound(entry.high)}{unit}. Normal: {plain(entry.normal)}"
        told[name] = (plain(entry.meaning), scope)
    lines = ["Glossary", "========", "", "The words of the lessons, and every number that a run of the trainer writes"]
    lines += ["(``metrics.jsonl``): its meaning, range, unit and what is normal.", ""]
    letter = ""
    for name in sorted(told, key=str.lower):
        if name[0].upper() != letter:
            letter = name[0].upper()
            lines += [letter, "-", "", ".. glossary::", ""]
        meaning, scope = told[name]
        lines += [f"   {plain(name)}", f"      {meaning} {scope}", ""]
    (out / "glossary.rst").write_text("\n".join(lines), encoding="utf-8")


def write_index(folder: Path, title: str, words: str, names: list[str], table: str = "") -> None:
    tree, hidden = "\n".join(names), ":hidden:\n" if table else ""
    text = f"# {title}\n\n{words}\n\n{table}\n\n```{{toctree}}\n{hidden}:maxdepth: 1\n\n{tree}\n```\n"
    (folder / "index.md").write_text(text, encoding="utf-8")


def write_pages(out: Path, books: dict[str, nbformat.NotebookNode]) -> None:
    """All sources of the site under `out`."""
    from toys.course import handout
    from toys.course.catalogue import ASSIGNMENTS, load
    from toys.course.notebook import student_version
    from toys.experiments import load as load_experiments
    from toys.experiments.claims import heading
    from toys.lab import as_copy
    from toys.strips import divergence_strip
    from toys.widgets.film_strip import page_script, page_style

    shutil.rmtree(out, ignore_errors=True)
    static = out / "_static"
    shutil.copytree(HERE / "_static", static)
    (static / "strip.css").write_text(page_style(), encoding="utf-8")
    (static / "strip.js").write_text(page_script(), encoding="utf-8")
    mathjax = next(file for file in files("sphinx-mathjax-offline") or [] if file.name == "tex-svg.js")
    (static / "mathjax").mkdir()
    shutil.copy(mathjax.locate(), static / "mathjax" / "tex-svg.js")
    (static / "notebooks").mkdir()
    (static / "results").mkdir()
    for table in (NOTEBOOKS / "results").glob("*.csv"):
        shutil.copy(table, static / "results" / table.name)

    shutil.copy(HERE / "conf.py", out / "conf.py")
    home = (HERE / "index.md").read_text(encoding="utf-8")
    strip = divergence_strip().to_html(alone=False)
    (out / "index.md").write_text(home.replace("<!-- strip -->", f"```{{raw}} html\n{strip}```"), encoding="utf-8")

    rows = [row_of(book, name) for name, book in books.items()]
    targets: dict[str, dict[str, nbformat.NotebookNode]] = {"lessons": books, "assignments": {}}
    for name in ASSIGNMENTS:
        targets["assignments"][name] = student_version(handout.source_book(load(name), NOTEBOOKS / "assignments"))
    where = {"lessons": "notebooks", "assignments": "notebooks/assignments/release"}
    documents = sorted((NOTEBOOKS / "results").glob("*.md"))
    sources = {NOTEBOOKS / f"{name}.ipynb": out / "lessons" / f"{name}.ipynb" for name in books}
    sources |= {file: out / "results" / ("index.md" if file.stem == "README" else file.name) for file in documents}
    sources[NOTEBOOKS / "MAP.md"] = out / "map.md"
    for name in ASSIGNMENTS:
        sources[NOTEBOOKS / "assignments" / "source" / name / f"{name}.ipynb"] = out / "assignments" / f"{name}.ipynb"
    pages = set(sources.values())

    results = next(file for file in sources if file.name.startswith("12_"))

    def settled(text: str, source: Path, target: Path) -> str:
        def redirect(match: re.Match) -> str:
            words, found, anchor = match[1], (source.parent / match[2]).resolve(), match[3] or ""
            if found.suffix == ".csv" and found.stem in load_experiments():  # its section shows it and links to the file
                title = heading(found.stem)
                words, found, anchor = title, results, f"#{title.replace(' ', '-')}"
            if found not in sources:
                return match[0]
            return f"[{words}]({os.path.relpath(sources[found], target.parent)}{anchor})"

        return settle_links(re.sub(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)", redirect, text), target, pages)

    for folder, group in targets.items():
        (out / folder).mkdir()
        for name, book in group.items():
            copy = as_copy(nbformat.writes(book))
            (static / "notebooks" / f"{name}.ipynb").write_text(copy, encoding="utf-8")
            target = out / folder / f"{name}.ipynb"
            page = page_of(book, name, where[folder], out)
            for cell in page.cells:
                if cell.cell_type == "markdown":
                    cell.source = settled(cell.source, NOTEBOOKS / f"{name}.ipynb", target)
            nbformat.write(page, target)
    (out / "results").mkdir()
    for file in [NOTEBOOKS / "MAP.md", *documents]:
        target = sources[file]
        text = settled(file.read_text(encoding="utf-8"), file, target)
        if file.name == "MAP.md":  # the page of the glossary has them, with links
            text = re.sub(r"(## Words\n\n).*<!-- end of words -->\n", rf"\1{WORDS_ARE_IN}\n", text, flags=re.DOTALL)
        if target.name == "index.md":
            others = "\n".join(sorted(other.stem for other in documents if other.stem != "README"))
            text += f"\n```{{toctree}}\n:hidden:\n\n{others}\n```\n"
        target.write_text(text, encoding="utf-8")
    write_index(
        out / "lessons",
        "The lessons",
        "In order; each says what you can predict afterwards, and how long it takes.",
        list(books),
        "| lesson | time | level | afterwards you can predict |\n| --- | --- | --- | --- |\n" + "\n".join(rows),
    )
    write_index(
        out / "assignments",
        "The assignments",
        "Student versions, to read; working on them needs a kernel (`make assignments`, `make lab`): the checks say what is "
        "wrong with an answer, not only that it is.",
        list(targets["assignments"]),
    )
    write_api(out)
    write_glossary(out, books)


def main(words: list[str] | None = None) -> int:
    """Build the site; returns Sphinx's exit status."""
    parser = argparse.ArgumentParser(prog="python notebooks/site/build.py", description="Build the site into a folder.")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "out" / "site", help="default: out/site")
    parser.add_argument(
        "--quick", action="store_true", help="take the lessons' committed outputs; no live strips in them"
    )
    parser.add_argument("--only", nargs="+", metavar="NN", help="run these lessons alone, the others as with --quick")
    args = parser.parse_args(words)
    os.environ["APO_EDU_STRIPS"] = "page"
    sys.path.insert(0, str(ROOT))
    kept = args.out.parent / f"{args.out.name}-runs"
    chosen = [path for path in lessons() if not args.quick and (not args.only or path.name[:2] in args.only)]
    ran = {path: run(path, kept) for path in chosen}
    books = {path.stem: ran.get(path) or nbformat.read(path, as_version=4) for path in lessons()}
    pages = args.out.parent / f"{args.out.name}-pages"
    write_pages(pages, books)
    shutil.rmtree(args.out, ignore_errors=True)
    trees = args.out.parent / f"{args.out.name}-trees"
    # A warning is a fault: a docstring that cannot be read, a link that leads nowhere.
    status = build_main(["-b", "html", "-q", "-W", "--keep-going", "-d", str(trees), str(pages), str(args.out)])
    for page in (args.out / "lessons").glob("*.html"):  # links in outputs, which Sphinx takes for places on the page
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace('href="#results/', 'href="../_static/results/'), encoding="utf-8")
    print(f"{args.out / 'index.html'}: open it in a browser")
    return status


if __name__ == "__main__":
    sys.exit(main())
