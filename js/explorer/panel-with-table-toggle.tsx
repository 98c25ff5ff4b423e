// A section of the explorer: a heading, a few words, tools at its right end, and the choice of a table instead of a picture.

import type { ComponentChildren } from "preact";
import { Toggle } from "../ui/inputs";
import { type Table, toggled, useView } from "./view-state";

interface PanelProps {
  name: string;
  title: string;
  label?: string;
  caption?: ComponentChildren;
  tools?: ComponentChildren;
  /** Which table can be shown here, and what it holds. */
  table?: Table;
  tableTitle?: string;
  children: ComponentChildren;
}

export function Panel({ name, title, label = title, caption, tools, table, tableTitle = "", children }: PanelProps) {
  return (
    <section class={`sw-${name}`} aria-label={label}>
      <header class="sw-heading">
        <h3>{title}</h3>
        <span class="sw-caption">{caption}</span>
        <span class="sw-tools">
          {tools}
          {table && <TableToggle table={table} title={tableTitle} />}
        </span>
      </header>
      {children}
    </section>
  );
}

function TableToggle({ table, title }: { table: Table; title: string }) {
  const { tables } = useView();
  return (
    <Toggle
      pressed={tables.value.has(table)}
      toggle={() => {
        tables.value = toggled(tables.value, table);
      }}
      title={title}
      testid={`${table}-table`}
    >
      as table
    </Toggle>
  );
}
