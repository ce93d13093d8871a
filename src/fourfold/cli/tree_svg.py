"""The tree of settings as a picture: a box a node, settings that tell more to the right of those that tell less."""

import textwrap
from collections.abc import Mapping
from html import escape

WIDTH, GAP, LINE, WRAP = 300, 70, 15, 44  # of a box, between columns, of a line; characters of a line


def tree_svg(
    parents: Mapping[str, list[str]], grants: Mapping[str, frozenset[str]], methods: Mapping[str, list[str]]
) -> str:
    """The nodes with what each adds to its parents: facts, and methods that apply besides."""
    depth: dict[str, int] = {}

    def depth_of(node: str) -> int:
        if node not in depth:
            depth[node] = 1 + max((depth_of(above) for above in parents[node]), default=-1)
        return depth[node]

    columns: dict[int, list[str]] = {}
    for node in sorted(parents, key=lambda node: (depth_of(node), len(grants[node]), node)):
        columns.setdefault(depth_of(node), []).append(node)
    texts = {node: _lines(node, parents, grants, methods) for node in parents}
    places: dict[str, tuple[int, int]] = {}
    lowest = 0
    for column, nodes in columns.items():
        top = 20
        for node in nodes:
            places[node] = (20 + column * (WIDTH + GAP), top)
            top += LINE * len(texts[node]) + 36
        lowest = max(lowest, top)
    width = 20 + len(columns) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{lowest}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for node, above in parents.items():
        for other in sorted(above):
            (x, y), (from_x, from_y) = places[node], places[other]
            parts.append(f'<path d="{_curve(from_x + WIDTH, from_y + 14, x, y + 14)}" fill="none" stroke="#888"/>')
    for node, (x, y) in places.items():
        parts += _box(x, y, texts[node])
    return "\n".join([*parts, "</svg>", ""])


def _lines(
    node: str,
    parents: Mapping[str, list[str]],
    grants: Mapping[str, frozenset[str]],
    methods: Mapping[str, list[str]],
) -> list[tuple[str, str]]:
    """(style, text) of a box, the name first."""
    known = frozenset().union(*(grants[above] for above in parents[node]))
    before = {name for above in parents[node] for name in methods[above]}
    facts = ", ".join(sorted(grants[node] - known)) or "nothing more"
    found = [("name", part) for part in textwrap.wrap(node, WRAP - 6)]
    found += [("fact", part) for part in textwrap.wrap(f"+ {facts}", WRAP)]
    new = [name for name in methods[node] if name not in before]
    found += [("method", part) for part in textwrap.wrap(", ".join(new), WRAP)]
    lost = sorted(before - set(methods[node]))
    return found + [("method", part) for part in textwrap.wrap(f"not {', '.join(lost)}" if lost else "", WRAP)]


def _box(x: int, y: int, lines: list[tuple[str, str]]) -> list[str]:
    style = {"name": 'font-weight="bold"', "fact": 'fill="#064"', "method": 'fill="#236"'}
    height = LINE * len(lines) + 12
    found = [f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{height}" rx="5" fill="#f6f8fa" stroke="#888"/>']
    for number, (kind, text) in enumerate(lines):
        found.append(f'<text x="{x + 8}" y="{y + 18 + LINE * number}" {style[kind]}>{escape(text)}</text>')
    return found


def _curve(x: int, y: int, to_x: int, to_y: int) -> str:
    middle = (x + to_x) // 2
    return f"M{x} {y} C{middle} {y} {middle} {to_y} {to_x} {to_y}"
