"""The words around the titles of rows, inferred from a sample of the rows.

Known titles are looked up in the inputs; what precedes the first, follows the last and lies between
two becomes a candidate, and the candidates that take the sample apart into most known titles win.
Knows nothing about files and prompts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product

from groundrec.data.exchange.row_words import InputForm, Row, RowWords, unwrapped

__all__ = ["infer_words"]

CANDIDATES = 12
"""How many prefixes, suffixes and separators are tried, the most frequent ones."""

MAX_SEPARATOR = 40
"""Maximum length of the text between two titles, in characters."""

FIRST_LOOK = 16
"""How many inputs every form is tried on; the best forms are then tried on all."""

MAX_INSTRUCTIONS = 20
"""Files with more instructions have one for each row, which no template can repeat."""
QUOTE = '"'
QUOTED_SEPARATOR = '", "'


def infer_words(
    sample: Sequence[Row], outputs: Collection[str], listed: Collection[str], shortest: str = ""
) -> RowWords | None:
    """Return the words of the rows, None if no form of input takes the sample apart.

    `outputs` are those of all rows, each once; `listed` are the titles of the catalogue, none where
    there is no list. `shortest` is the shortest input, that of an empty history if there is one.
    """
    inputs = [row.input for row in sample]
    best: tuple[float, InputForm, tuple[str, str]] | None = None
    in_list = frozenset(listed)
    for marks in _output_marks(outputs, in_list):
        titles = filter(None, (unwrapped(output, marks) for output in outputs))
        # Marks count as text, or else titles would seem longer, and better, with them.
        score, form = _input_form(inputs, in_list.union(titles), extra=len("".join(marks)))
        if form and (best is None or score > best[0]):
            best = score, form, marks
    if best is None:
        return None
    _, form, marks = best
    counted = Counter(row.instruction for row in sample).most_common()
    if len(counted) > MAX_INSTRUCTIONS:
        counted = counted[:1]
    opening, closing = _title_marks(form, [shortest, *inputs])
    return RowWords(
        tuple(text for text, _ in counted),
        form.prefix[: len(form.prefix) - len(opening)],
        (opening, closing),
        form.separator[len(closing) : len(form.separator) - len(opening)],
        form.suffix[len(closing) :],
        marks,
    )


def _output_marks(outputs: Collection[str], listed: Collection[str]) -> list[tuple[str, str]]:
    """Return what may open and close the title of an output, the likeliest first."""
    texts = list(outputs)
    start = _common_start(texts)
    stop = _common_end(texts)
    # Titles may begin or end alike: what they share ends with its last sign that is no letter.
    while start and start[-1].isalnum():
        start = start[:-1]
    while stop and stop[0].isalnum():
        stop = stop[1:]
    among = [("", ""), (start, stop), (start, ""), ("", stop)]
    blank = stop[len(stop.rstrip()) :]
    mark = stop.rstrip()[-1:] + blank
    # Marks come first: where both fit, a title is what lies between them.
    if mark.strip() and start and not any(map(str.isalnum, start)):
        among.insert(0, (start, mark))
    elif blank:
        among.insert(0, ("", blank))
    quoted = (QUOTE, QUOTE)
    if 2 * sum(unwrapped(text, quoted) is not None for text in texts) > len(texts):
        among.insert(0, quoted)
    if not listed:
        return list(dict.fromkeys(among))
    found = {m: sum(unwrapped(text, m) in listed for text in texts) for m in among}
    most = max(found.values())
    return [m for m, count in found.items() if count == most][:1] if most else list(found)


class _KnownTitles:
    """Known titles, found wherever they begin in a text."""

    def __init__(self, titles: Iterable[str]) -> None:
        self._titles = set(titles)
        lengths: dict[str, set[int]] = defaultdict(set)
        for title in self._titles:
            lengths[title[:3]].add(len(title))
        self._lengths = dict(lengths)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where each known title in the text begins and ends, also those within others."""
        for start in range(len(text)):
            for length in (1, 2, 3):
                for size in self._lengths.get(text[start : start + length], ()):
                    stop = start + size
                    # At the end of a text, its last signs are the key of every length.
                    if min(size, 3) == length and text[start:stop] in self._titles:
                        yield start, stop


def _input_form(
    inputs: Sequence[str], known: Collection[str], extra: int
) -> tuple[float, InputForm | None]:
    """Return the form that finds most text of known titles in the inputs, and how much.

    A quarter of the text of other titles is subtracted; each title counts as `extra` longer.
    """
    titles = _KnownTitles(known)
    spans = [sorted(titles.spans(text)) for text in inputs]
    quoted = [text for text in inputs if text.count(QUOTE) > 1]
    by_quotes = _quoted_form(quoted)
    forms = [by_quotes] if by_quotes else []
    prefixes, suffixes = _around_titles(inputs, spans)
    for prefix in prefixes:
        separators = _separators(prefix, inputs, spans)
        for separator, suffix in product(separators, suffixes):
            forms.append(InputForm(prefix, separator, suffix))
    ambiguous = {
        separator: {title for title in known if separator in title}
        for separator in {form.separator for form in forms}
    }

    def score(form: InputForm, inputs: Sequence[str]) -> float:
        found = (
            title for text in inputs for title in form.titles(text, ambiguous[form.separator]) or ()
        )
        return sum((len(t) + extra) * (1 if t in known else -0.25) for t in found)

    unique = list(dict.fromkeys(forms))
    unique.sort(key=lambda form: -score(form, inputs[:FIRST_LOOK]))
    best: tuple[float, InputForm | None] = (0.0, None)
    for form in unique[: 2 * CANDIDATES]:
        if (reached := score(form, inputs)) > best[0]:
            best = reached, form
    if best[1] or not by_quotes:
        return best
    # Not one title is known: quotation marks are all there is to go by.
    fitting = sum(by_quotes.titles(text) is not None for text in quoted)
    return (0.0, by_quotes if 2 * fitting > len(quoted) else None)


def _around_titles(
    inputs: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
) -> tuple[list[str], list[str]]:
    """Return the texts that precede, and those that follow, most different known titles.

    What precedes a title that happens to be a word of the author's own precedes no other.
    """
    following: dict[str, set[str]] = defaultdict(set)
    preceding: dict[str, set[str]] = defaultdict(set)
    for text, found in zip(inputs, spans, strict=True):
        for start, stop in found:
            following[text[:start]].add(text[start:stop])
            preceding[text[stop:]].add(text[start:stop])
    prefixes = Counter({prefix: len(titles) for prefix, titles in following.items()})
    suffixes = Counter({suffix: len(titles) for suffix, titles in preceding.items()})
    return _frequent(prefixes), _frequent(suffixes)


def _quoted_form(inputs: Sequence[str]) -> InputForm | None:
    """Return the form in which titles are in quotation marks, with a comma between them."""
    around = Counter(
        (text[: text.find(QUOTE) + 1], text[text.rfind(QUOTE) :]) for text in inputs
    ).most_common(1)
    return InputForm(around[0][0][0], QUOTED_SEPARATOR, around[0][0][1]) if around else None


def _separators(
    prefix: str, inputs: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
) -> list[str]:
    """Return what stands between a title right after the prefix and a next known title."""
    between: Counter[str] = Counter()
    for text, found in zip(inputs, spans, strict=True):
        if text.startswith(prefix):
            stops = [stop for start, stop in found if start == len(prefix)]
            starts = [start for start, _ in found]
            between.update(
                {
                    text[stop:start]
                    for stop in stops
                    for start in starts
                    if stop < start <= stop + MAX_SEPARATOR
                }
            )
    default = QUOTED_SEPARATOR if prefix.endswith(QUOTE) else ", "
    return _frequent(between) or [default]


def _frequent(texts: Counter[str]) -> list[str]:
    """Return the most frequent texts, the shorter of equally frequent ones first."""
    order = sorted(texts, key=lambda text: (-texts[text], len(text), text))
    return order[:CANDIDATES]


def _title_marks(form: InputForm, inputs: Iterable[str]) -> tuple[str, str]:
    """Return what opens and closes each title: what an input without titles lacks, or else what
    the separator shares with prefix and suffix.
    """
    opening = _common_end([form.prefix, form.separator])
    closing = _common_start([form.suffix, form.separator])
    cuts = [
        (opening[len(opening) - left :], closing[:right])
        for left, right in product(range(len(opening) + 1), range(len(closing) + 1))
        if left + right <= len(form.separator)
    ]
    likely = (opening.lstrip(), closing.rstrip())
    cuts.sort(key=lambda marks: (marks != likely, -len(marks[0]) - len(marks[1])))
    cuts = [marks for marks in cuts if "{title}" not in marks[0] + marks[1]]
    empty = {
        form.prefix[: len(form.prefix) - len(left)] + form.suffix[len(right) :]: (left, right)
        for left, right in reversed(cuts)
    }
    without_titles = (empty[text] for text in inputs if text in empty)
    return next(without_titles, cuts[0])


def _common_start(texts: Collection[str]) -> str:
    """Return the longest text with which all texts begin."""
    first = min(texts, default="")
    last = max(texts, default="")
    # What the first and the last in sorted order share, all between them share too.
    length = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return first[:length]


def _common_end(texts: Collection[str]) -> str:
    """Return the longest text with which all texts end."""
    return _common_start([text[::-1] for text in texts])[::-1]
