"""One self-contained HTML page: its style, and the elements it is made of. Every text is escaped."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = """
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #2b3138;
       max-width: 940px; margin: 32px auto 64px; padding: 0 24px; background: #fff; }
h1 { font-size: 27px; margin: 0 0 2px; }
h2, summary { font-size: 19px; font-weight: 700; margin: 36px 0 8px; }
.lead { background: #f3f7fb; border-left: 4px solid #0b6fb8; padding: 12px 18px; margin: 18px 0; }
.lead p { margin: 4px 0; } .lead p:first-child { font-size: 18px; font-weight: 600; }
.quiet, figcaption { color: #5b636b; font-size: 14px; }
figure { margin: 14px 0 26px; } img { max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 5px 8px; border-bottom: 1px solid #e8ebee; text-align: right; white-space: nowrap; }
th { color: #5b636b; font-weight: 600; }
.own { color: #0b6fb8; } .none { color: #b4530a; } .data { color: #5b636b; }
.ranked { color: #1d7f86; } .best { color: #2e7d32; } .worst { color: #7a3e9d; }
.facts th, .facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
.facts th { width: 30%; font-weight: 400; }
pre { background: #f6f7f9; padding: 12px 14px; font-size: 13.5px; white-space: pre-wrap; }
pre { overflow-wrap: anywhere; } summary { cursor: pointer; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """The whole page; it loads nothing from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">{element("title", title)}'
        f"<style>{_STYLE}</style></head>\n<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def element(tag: str, text: str, kind: str = "") -> str:
    """A text in a tag, with a class where one is given."""
    attributes = f' class="{kind}"' if kind else ""
    return f"<{tag}{attributes}>{html.escape(text)}</{tag}>"


def lead(sentences: Sequence[str]) -> str:
    """What was found, at the top, the first sentence the largest."""
    return f'<div class="lead">{"".join(element("p", line) for line in sentences)}</div>'


def table(header: Sequence[str], lines: Sequence[Sequence[str]], kinds: Sequence[str]) -> str:
    """A class for each line; what is wider than the page scrolls."""
    rows = [f"<tr>{''.join(element('th', name) for name in header)}</tr>"]
    for cells, kind in zip(lines, kinds, strict=True):
        rows.append(f'<tr class="{html.escape(kind)}">{"".join(element("td", cell) for cell in cells)}</tr>')
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def figure(image: bytes, kind: str, caption: str) -> str:
    """A picture, inside the page; kind: png or gif."""
    source = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    words = html.escape(caption)
    return f'<figure><img alt="{words}" src="{source}"><figcaption>{words}</figcaption></figure>'


def facts(of: Mapping[str, Any]) -> str:
    """Names and values, nested ones with dots."""
    lines = [f"<tr>{element('th', name)}{element('td', text)}</tr>" for name, text in _flat(of)]
    return f'<table class="facts">{"".join(lines)}</table>'


def _flat(of: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """{"model": {"width": 128}} -> [("model.width", "128")]."""
    lines = []
    for name, value in of.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return lines
