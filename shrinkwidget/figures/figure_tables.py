"""The numbers of a figure as a table: rows, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_LATEX: Final = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "×": r"$\times$",
        "≈": r"$\approx$",
        "±": r"$\pm$",
        "−": r"$-$",
        "→": r"$\rightarrow$",
        "–": "--",
        "…": r"\ldots{}",
        "\u202f": r"\,",
        "\n": " ",
    }
)
_MARKDOWN: Final = str.maketrans(
    {"|": r"\|", "\n": " ", "<": "&lt;", ">": "&gt;", "&": "&amp;", **{letter: f"\\{letter}" for letter in "\\`*_$~["}}
)


@dataclass(frozen=True)
class Table:
    """Rows of numbers, and the same as text.

    `rows` hold the numbers under the columns' names, None where one is not known; `texts` hold them as they are written
    in the figure.

    Example:
        >>> import shrinkwidget as sw
        >>> table = sw.figures.table("size", sw.estimate(sw.demo.model(), sparsity=0.9, bits=4))
        >>> table.rows[0]
        {'part': 'codes', 'bytes': 8575}
        >>> print(table.csv().splitlines()[1])
        codes,8575
    """

    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    texts: list[tuple[str, ...]]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, tuple[Any, str]]]) -> Table:
        """Return the table of rows of (number, text) by column; columns in which nothing is known are left out."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        known = [name for name in names if any(row.get(name, (None, ""))[0] is not None for row in rows)]
        return cls(
            tuple(known),
            [{name: row.get(name, (None, ""))[0] for name in known} for row in rows],
            [tuple(row.get(name, (None, "–"))[1] for name in known) for row in rows],
        )

    def markdown(self) -> str:
        """Return it as a table of GitHub's Markdown.

        Example:
            >>> import shrinkwidget as sw
            >>> table = sw.figures.table("size", sw.estimate(sw.demo.model(), bits=4))
            >>> table.markdown().splitlines()[0]
            '| part | bytes |'
        """
        lines = [self.columns, tuple("---:" if self._is_number(i) else "---" for i in range(len(self.columns)))]
        lines += [tuple(text.translate(_MARKDOWN) for text in row) for row in self.texts]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def csv(self) -> str:
        """Return it as CSV: numbers in full, and empty where one is not known.

        A text that a spreadsheet would take for a formula, such as the name of a layer with "=" before it, gets an
        apostrophe in front (OWASP, CSV injection).

        Example:
            >>> import shrinkwidget as sw
            >>> table = sw.figures.table("size", sw.estimate(sw.demo.model(), bits=4))
            >>> table.csv().splitlines()[:2]
            ['part,bytes', 'codes,85640']
        """
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(_no_formula, self.columns))
        writer.writerows([_no_formula(row[name]) for name in self.columns] for row in self.rows)
        return stream.getvalue()

    def latex(self) -> str:
        r"""Return it as a ``tabular`` that needs the package booktabs.

        Example:
            >>> import shrinkwidget as sw
            >>> table = sw.figures.table("size", sw.estimate(sw.demo.model(), bits=4))
            >>> print(table.latex().splitlines()[0])
            \begin{tabular}{lr}
        """
        align = "".join("r" if self._is_number(i) else "l" for i in range(len(self.columns)))
        lines = [tuple(map(_latex, row)) for row in (self.columns, *self.texts)]
        body = [f"{' & '.join(line)} \\\\" for line in lines]
        inside = ["\\toprule", body[0], "\\midrule", *body[1:], "\\bottomrule"]
        return "\n".join([f"\\begin{{tabular}}{{{align}}}", *inside, "\\end{tabular}"]) + "\n"

    def _is_number(self, column: int) -> bool:
        found = [row[self.columns[column]] for row in self.rows]
        return all(value is None or isinstance(value, int | float) for value in found)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in self.texts)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        return f"<table><tr>{head}</tr>{rows}</table>"

    def __str__(self) -> str:
        return self.markdown()


def _no_formula(value: object) -> object:
    """Return a cell that no spreadsheet computes."""
    # A layer may be called "=cmd|…": spreadsheets run what begins like a formula (CSV injection), and show a text
    # behind an apostrophe.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _latex(text: str) -> str:
    """Return a text for a cell; after a line's end TeX would take "[" and "*" for arguments of it."""
    escaped = text.translate(_LATEX)
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(("[", "*")) else escaped
