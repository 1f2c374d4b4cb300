"""HTML of reports: self-contained pages, sections, tables and figures."""

import base64
from collections.abc import Sequence
from html import escape

STYLE = """
:root { --ink: #1d2329; --soft: #5b6570; --line: #e3e6ea; --ground: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0; }
header p { color: var(--soft); margin: 4px 0 24px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 20px; margin-top: 16px; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.2; }
.tile span { display: block; }
.tile small, figcaption { color: var(--soft); font-size: 13px; }
video, img { display: block; width: 100%; height: auto; border-radius: 6px; }
video { background: #000; }
figure { margin: 0; }
figcaption { margin-top: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td i { font-style: normal; border-radius: 5px; padding: 1px 8px; background: #eceff2; }
td i.success { background: #d9f0e3; color: #0b5c36; }
td i.failure { background: #fbe0d3; color: #8c3500; }
.wide { overflow-x: auto; }
td b { font-weight: 600; }
p small { display: block; margin-top: 12px; line-height: 1.45; }
p small, td small { color: var(--soft); }
td small { white-space: nowrap; }
td sup { color: var(--soft); padding-left: 2px; }
.note { border-left: 3px solid #c98a2b; padding-left: 12px; }
figure + figure { margin-top: 16px; }
details + details { margin-top: 8px; }
summary { cursor: pointer; padding: 4px 0; }
pre { overflow-x: auto; font-size: 12.5px; background: var(--ground); padding: 12px;
  border-radius: 6px; }
@media print { body { background: #fff; } section, .tile { break-inside: avoid; } }
"""


def page(title: str, subtitle: str, body: str) -> str:
    """A complete document; `title` is text, `subtitle` and `body` are HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header><h1>{escape(title)}</h1><p>{subtitle}</p></header>
{body}
</main>
</body>
</html>
"""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls if it is too wide; heads are text, cells are HTML."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def section(title: str, body: str) -> str:
    """A titled section of a page; both are HTML."""
    return f"<section><h2>{title}</h2>{body}</section>"


def figure(image: bytes, caption: str, image_type: str = "png") -> str:
    """An image file with a caption, embedded in the page; `caption` is escaped text."""
    source = base64.b64encode(image).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/{image_type};base64,{source}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
