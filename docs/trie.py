"""Draw the front page's picture, `docs/trie.svg` and its Chinese twin: `python docs/trie.py`.

The probabilities are made up. What the picture says of the two searches is computed from them.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

__all__ = ["BRANCHES", "PAGES", "K", "beam", "best_first", "drawing", "write"]

FOLDER = Path(__file__).resolve().parent
K = 2
"""The length of the slate, and the width of the beam."""
BRANCHES = {
    "Star": (0.40, {"Star Wars": 0.6, "Star Trek": 0.4}),
    "The": (0.30, {"The Sting": 0.4, "The Fly": 0.3, "The Net": 0.3}),
    "Far": (0.20, {"Fargo": 1.0}),
    "Al": (0.10, {"Alien": 0.7, "Aliens": 0.3}),
}
"""First token → its probability, and that of each title once the token is written."""
WORDS = {
    "en": {
        "name": "A trie of seven films in which a beam of two loses the second best",
        "history": "history",
        "score": "score",
        "beam": "beam of 2",
        "exact": "exact search",
        "drop": "beam drops it",
        "lost": "lost",
        "unread": "not read",
        "proof": "Proof: scores only fall along a path, so nothing below “{}” exceeds {},"
        " and second place has {}.",
    },
    "zh-CN": {
        "name": "七部电影的前缀树：束宽为 2 的束搜索丢掉了第二名",
        "history": "用户历史",
        "score": "分数",
        "beam": "束搜索（束宽 2）",
        "exact": "精确搜索",
        "drop": "束搜索在此丢弃",
        "lost": "丢失",
        "unread": "无需读取",
        "proof": "证明：沿路径向下，分数只降不升；“{}” 之下的分数不超过 {}，而第二名已有 {}。",
    },
}
PAGES = {"en": "trie.svg", "zh-CN": "trie.zh-CN.svg"}
STYLE = """
  text { font: 15px system-ui, -apple-system, "Segoe UI", "Noto Sans", "PingFang SC",
         "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; fill: #24292f; }
  .card { fill: #ffffff; stroke: #d0d7de; }
  .node { fill: #f6f8fa; stroke: #8c959f; }
  .edge { fill: none; stroke: #8c959f; stroke-width: 1.5; }
  .found { stroke: #0969da; stroke-width: 3; }
  .unread { stroke-dasharray: 4 4; }
  .cross { stroke: #cf222e; stroke-width: 3; }
  text.faint { fill: #57606a; }
  text.found { fill: #0969da; stroke: none; font-weight: 600; }
  text.lost { fill: #cf222e; font-weight: 600; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .card { fill: #0d1117; stroke: #30363d; }
    .node { fill: #161b22; stroke: #6e7681; }
    .edge { stroke: #6e7681; }
    .found { stroke: #58a6ff; }
    .cross { stroke: #ff7b72; }
    text.faint { fill: #9198a1; }
    text.found { fill: #58a6ff; }
    text.lost { fill: #ff7b72; }
  }
"""
WIDTH, HEIGHT = 860, 380
ROOT, TOKEN, TITLE, SCORE, BEAM, EXACT = 30, 210, 390, 560, 665, 790
"""Left edges of the boxes and titles; middles of the three columns."""
FIRST, ROW, GAP = 76, 28, 16


def beam(width: int) -> list[str]:
    """Return the titles that a beam search of this width ends with, best first."""
    kept = sorted(BRANCHES, key=lambda token: -BRANCHES[token][0])[:width]
    scores = {t: BRANCHES[token][0] * p for token in kept for t, p in BRANCHES[token][1].items()}
    return sorted(scores, key=lambda title: -scores[title])[:width]


def best_first(k: int) -> tuple[dict[str, float], list[str]]:
    """Return title → score of the best k, best first, and the tokens that were never read."""
    found: dict[str, float] = {}
    waiting = sorted(BRANCHES, key=lambda token: -BRANCHES[token][0])
    while waiting:
        bound = BRANCHES[waiting[0]][0]
        if len(found) == k and bound <= min(found.values()):
            break
        token = waiting.pop(0)
        found |= {title: bound * p for title, p in BRANCHES[token][1].items()}
        found = dict(sorted(found.items(), key=lambda item: -item[1])[:k])
    return found, waiting


def drawing(language: str) -> str:
    """Return the picture as SVG."""
    words = WORDS[language]
    beamed = beam(K)
    found, unread = best_first(K)
    parts = [
        _text(SCORE, 40, words["score"], "faint", "middle"),
        _text(BEAM, 40, words["beam"], "faint", "middle"),
        _text(EXACT, 40, words["exact"], "faint", "middle"),
    ]
    rows = _rows(unread)
    middle = (min(rows.values()) + max(rows.values())) / 2
    for token, (probability, titles) in BRANCHES.items():
        is_read = token not in unread
        ys = [rows[title] for title in titles if title in rows] or [rows[token]]
        y = sum(ys) / len(ys)
        is_lost = is_read and any(title in found and title not in beamed for title in titles)
        leads = any(title in found for title in titles)
        parts.append(_edge(ROOT + 94, middle, TOKEN, y, leads, is_read))
        if is_lost:
            cross_x = (ROOT + 94 + TOKEN) / 2 + 18
            cross_y = (middle + 3 * y) / 4
            parts += _cross(cross_x, cross_y)
            parts.append(_text(cross_x - 26, cross_y + 9, words["drop"], "lost", "end"))
        for title in titles if is_read else ():
            parts.append(_edge(TOKEN + 94, y, TITLE - 8, rows[title], title in found, True))
            parts += _row(title, rows[title], probability * titles[title], beamed, found, words)
        if not is_read:
            parts.append(_edge(TOKEN + 94, y, TITLE - 8, y, False, False))
            parts.append(_text(TITLE, y + 5, ", ".join(titles), "faint"))
            parts.append(_text(SCORE, y + 5, f"≤ {_number(probability)}", "faint", "middle"))
            parts.append(_text(EXACT, y + 5, words["unread"], "faint", "middle"))
        parts += _box(TOKEN, y, f"{token}  {_number(probability)}")
    parts += _box(ROOT, middle, words["history"])
    last = min(found.values())
    bound = unread[0]
    proof = words["proof"].format(bound, _number(BRANCHES[bound][0]), _number(last))
    parts.append(_text(ROOT, HEIGHT - 26, proof, ""))
    name = escape(words["name"])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{name}">\n<title>{name}</title>\n<style>{STYLE}</style>\n'
        f'<rect class="card" x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="10"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def write() -> None:
    """Write the picture in every language."""
    for language, name in PAGES.items():
        (FOLDER / name).write_text(drawing(language), encoding="utf-8")


def _rows(unread: list[str]) -> dict[str, int]:
    """Return title → height of its line; a token that is not read has one line of its own."""
    rows: dict[str, int] = {}
    y = FIRST
    for token, (_, titles) in BRANCHES.items():
        for line in [token] if token in unread else titles:
            rows[line] = y
            y += ROW
        y += GAP
    return rows


def _row(
    title: str,
    y: int,
    score: float,
    beamed: list[str],
    found: dict[str, float],
    words: dict[str, str],
) -> list[str]:
    """Return a title, its score, and its rank in both searches."""
    style = "found" if title in found else ""
    parts = [
        _text(TITLE, y + 5, title, style),
        _text(SCORE, y + 5, _number(score), style, "middle"),
    ]
    if title in beamed:
        parts.append(_text(BEAM, y + 5, f"{beamed.index(title) + 1}", "", "middle"))
    elif title in found:
        parts.append(_text(BEAM, y + 5, words["lost"], "lost", "middle"))
    if title in found:
        parts.append(_text(EXACT, y + 5, f"{list(found).index(title) + 1}", "found", "middle"))
    return parts


def _number(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    attributes = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text class="{style}" {attributes}>{escape(text)}</text>'


def _box(x: float, y: float, text: str) -> list[str]:
    box = f'<rect class="node" x="{x:g}" y="{y - 14:g}" width="94" height="28" rx="6"/>'
    return [box, _text(x + 47, y + 5, text, "", "middle")]


def _edge(x: float, y: float, to_x: float, to_y: float, is_found: bool, is_read: bool) -> str:
    style = " ".join(["edge"] + ["found"] * is_found + ["unread"] * (not is_read))
    bend = (x + to_x) / 2
    path = f"M{x:g} {y:g} C{bend:g} {y:g} {bend:g} {to_y:g} {to_x:g} {to_y:g}"
    return f'<path class="{style}" d="{path}"/>'


def _cross(x: float, y: float) -> list[str]:
    strokes = [(-7, -7, 7, 7), (-7, 7, 7, -7)]
    return [
        f'<path class="cross" d="M{x + a:g} {y + b:g} L{x + c:g} {y + d:g}"/>'
        for a, b, c, d in strokes
    ]


if __name__ == "__main__":
    write()
