// A table of figures: a real one, for people and screen readers alike.

import type { ComponentChildren } from "preact";

type Cells = readonly ComponentChildren[];

interface TableProps {
  caption?: string;
  head: readonly string[];
  /** The first cell of a row is its heading. */
  rows: readonly Cells[];
  foot?: readonly Cells[];
  /** Which column holds words rather than numbers. */
  words?: number;
  testid?: string;
}

export function DataTable({ caption, head, rows, foot = [], words, testid }: TableProps) {
  const column = (i: number) => (i === words ? "sw-words" : undefined);
  const line = (cells: Cells, key: number) => (
    <tr key={key}>
      {cells.map((cell, i) =>
        i === 0 ? (
          <th key="name" scope="row">
            {cell}
          </th>
        ) : (
          <td key={head[i]} class={column(i)}>
            {cell}
          </td>
        ),
      )}
    </tr>
  );
  return (
    <table class="sw-table" data-testid={testid}>
      {caption && <caption>{caption}</caption>}
      <thead>
        <tr>
          {head.map((title, i) => (
            <th key={title} scope="col" class={column(i)}>
              {title}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>{rows.map(line)}</tbody>
      {foot.length > 0 && <tfoot>{foot.map(line)}</tfoot>}
    </table>
  );
}
