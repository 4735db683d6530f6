"""From blocks to HTML. Jinja2 escapes every text; the only markup that passes is ours."""

import base64
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from solblom_protocol.errors import SolblomError
from solblom_server.steward.blocks import Page
from solblom_server.steward.languages import TAGS, Texts
from solblom_server.steward.scene import Scene

SHIFT = 2  # a text's own first heading stands below a section's


def render_page(scene: Scene, page: Page, path: str) -> str:
    """Return one view as a whole HTML page."""
    template = environment().get_template("page.html")
    return template.render(_frame(scene.texts), page=page, path=path, report=False)


def render_report(scene: Scene, pages: tuple[Page, ...], *, title: str, made: str) -> str:
    """Return several views as one HTML file that needs nothing else: the style stands inside, pictures too."""
    style = (files("solblom_server.steward") / "static" / "steward.css").read_text("utf-8")
    template = environment().get_template("report.html")
    # The style is our own file; a report is opened from a disk, where no server could give it.
    return template.render(
        _frame(scene.texts),
        pages=pages,
        title=title,
        made=made,
        style=Markup(style),  # noqa: S704
        report=True,
    )


def render_problem(scene: Scene, error: SolblomError) -> str:
    """Return a page that says what cannot be shown, and why."""
    template = environment().get_template("problem.html")
    return template.render(_frame(scene.texts), error=error, path="/", report=False)


def _frame(texts: Texts) -> dict[str, object]:
    return {"t": texts, "lang": TAGS[texts.language], "kind": kind}


@cache
def environment() -> Environment:
    """Return the templates: everything is escaped, and a name that is missing is an error."""
    found = Environment(
        loader=PackageLoader("solblom_server.steward", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["data_uri"] = data_uri
    found.filters["markdown"] = markdown
    found.filters["ticks"] = ticks
    return found


def kind(block: object) -> str:
    """Return the name of a block's kind, for the template to choose by."""
    return type(block).__name__


def data_uri(svg: bytes) -> str:
    """Return a picture as an address that holds it. An image runs no script and loads nothing."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def ticks(text: str) -> Markup:
    """Return a text with what stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:  # one backtick belongs to nothing
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part
        for place, part in enumerate(parts)
    )


@cache
def _reader() -> MarkdownIt:
    # "zero" knows paragraphs only; no HTML, no links, no images: a text from outside leads nowhere.
    return MarkdownIt("zero", {"html": False}).enable(
        ["heading", "list", "table", "fence", "blockquote", "hr", "backticks", "emphasis", "escape", "newline"]
    )  # fmt: skip


def markdown(text: str) -> Markup:
    """Return Markdown as HTML; headings begin below the section's, tables can be scrolled to."""
    tokens: list[Token] = _reader().parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            level = min(int(token.tag[1]) + SHIFT, 6)
            token.tag = f"h{level}"
    html = _reader().renderer.render(tokens, _reader().options, {})
    return Markup(html)  # noqa: S704 - made by the reader above, which escapes
