# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG, written by hand: bars and lines, with axes from zero. No library, no script in them, colours that differ in grey too."""
import math
import os
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 54, 78
COLOURS = ("#1b4f8a", "#d98a1f", "#5b9e48", "#8a3a7a", "#777777")
DASHES = ("", "7 4", "2 3", "9 3 2 3", "1 4")


def ticks(top, count=5):
    """From 0 to at least `top` in steps of 1, 2 or 5."""
    if not top > 0:
        return [0, 1]
    raw = top / count
    step = 10 ** math.floor(math.log10(raw))
    step = next(step * m for m in (1, 2, 5, 10) if step * m >= raw * 0.999)
    return [i * step for i in range(math.ceil(top / step - 1e-9) + 1)]


def text(x, y, words, anchor="middle", size=12, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {more}>{escape(str(words))}</text>'


def frame(title, subtitle, y_label, top):
    """The picture's beginning, and where a value lies."""
    marks = ticks(top)
    inner = HEIGHT - TOP - BOTTOM

    def at(value):
        return TOP + inner - inner * value / marks[-1]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
             'font-family="sans-serif" fill="#222">', f"<title>{escape(title)}</title>", f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
             text(LEFT, 22, title, "start", 16, 'font-weight="bold"'), text(LEFT, 40, subtitle, "start", 11, 'fill="#555"')]
    for mark in marks:
        parts.append(f'<line x1="{LEFT}" y1="{at(mark):.1f}" x2="{WIDTH - RIGHT}" y2="{at(mark):.1f}" stroke="{"#333" if mark == 0 else "#ddd"}"/>')
        parts.append(text(LEFT - 6, at(mark) + 4, f"{mark:g}", "end", 11))
    middle = TOP + inner / 2
    parts.append(text(18, middle, y_label, more=f'transform="rotate(-90 18 {middle:.1f})"'))
    return parts, at


def legend(parts, names, lines):
    x = LEFT
    for i, name in enumerate(names):
        colour = COLOURS[i % len(COLOURS)]
        if lines:
            parts.append(f'<line x1="{x}" y1="{HEIGHT - 16}" x2="{x + 26}" y2="{HEIGHT - 16}" stroke="{colour}" stroke-width="2.5" '
                         f'stroke-dasharray="{DASHES[i % len(DASHES)]}"/>')
        else:
            parts.append(f'<rect x="{x + 8}" y="{HEIGHT - 22}" width="14" height="12" fill="{colour}"/>')
        parts.append(text(x + 32, HEIGHT - 12, name, "start", 12))
        x += 50 + 7 * len(name)


def bars(path, title, subtitle, y_label, labels, series, top=None):
    """`series`: name → one value for each label, None where there is none. Long labels are broken at their spaces. What is higher than `top` is
    cut off there, with two strokes across it."""
    series = {name: list(values) for name, values in series.items()}
    highest = max((v for values in series.values() for v in values if v is not None), default=1)
    parts, at = frame(title, subtitle, y_label, min(top or highest, highest) * 1.05)
    ceiling = TOP + 12
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    wide = min(60.0, slot * 0.8 / max(1, len(series)))
    for i, label in enumerate(labels):
        centre = LEFT + slot * (i + 0.5)
        for n, values in enumerate(series.values()):
            if values[i] is None:
                continue
            x = centre + (n - len(series) / 2) * wide
            y = max(at(values[i]), ceiling)
            parts.append(f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{wide - 2:.1f}" height="{at(0) - y:.1f}" fill="{COLOURS[n % len(COLOURS)]}"/>')
            if y > at(values[i]):
                parts.extend(f'<line x1="{x - 2:.1f}" y1="{y + down + 6:.1f}" x2="{x + wide + 2:.1f}" y2="{y + down:.1f}" stroke="#fff" stroke-width="3"/>' for down in (14, 21))
            parts.append(text(x + wide / 2, y - 4, f"{values[i]:.3g}" if values[i] < 100 else f"{values[i]:.0f}", size=10))
        lines = [""]
        for word in str(label).split(" "):   # a space that must not be broken stays
            lines = lines + [word] if len(lines[-1]) + len(word) > slot / 7 and lines[-1] else [*lines[:-1], f"{lines[-1]} {word}".strip()]
        for n, line in enumerate(lines[:3]):
            parts.append(text(centre, at(0) + 15 + 13 * n, line, size=11))
    if len(series) > 1:
        legend(parts, series, lines=False)
    return save(path, parts)


def lines(path, title, subtitle, x_label, y_label, series):
    """`series`: name → [(x, y)], x from 1."""
    top = max((y for points in series.values() for _, y in points), default=1)
    last = max((x for points in series.values() for x, _ in points), default=1)
    parts, at = frame(title, subtitle, y_label, top * 1.05)

    def across(x):
        return LEFT + 10 + (WIDTH - LEFT - RIGHT - 20) * (x - 1) / max(1, last - 1)
    for x in range(1, int(last) + 1, max(1, int(last) // 20)):
        parts.append(text(across(x), at(0) + 16, x, size=11))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, at(0) + 34, x_label))
    for n, points in enumerate(series.values()):
        where = " ".join(f"{across(x):.1f},{at(y):.1f}" for x, y in points)
        colour = COLOURS[n % len(COLOURS)]
        parts.append(f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{DASHES[n % len(DASHES)]}"/>')
        parts.extend(f'<circle cx="{across(x):.1f}" cy="{at(y):.1f}" r="2.5" fill="{colour}"/>' for x, y in points)
    legend(parts, series, lines=True)
    return save(path, parts)


def save(path, parts):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join([*parts, "</svg>"]) + "\n")
    return path
