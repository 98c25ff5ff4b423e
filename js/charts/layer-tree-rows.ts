// Folds a model's layers by the prefix of their names, and lists the rows a ridge shows.

export interface LayerRow {
  kind: "layer";
  /** Index of the layer in the sketch. */
  layer: number;
  label: string;
  /** Key of the block it is shown under, or "". */
  block: string;
}

export interface BlockRow {
  kind: "block";
  key: string;
  layers: number[];
  folded: boolean;
}

export type Row = LayerRow | BlockRow;

/**
 * The block a layer belongs to: its name up to the first number ("layer3.5", "model.layers.11"), or else up to its
 * first dot; "" for a name without one.
 */
export function blockOf(label: string): string {
  const parts = label.split(".");
  if (parts.length === 1) return "";
  const number = parts.findIndex((part) => /^\d+$/.test(part));
  return number > 0 && number < parts.length - 1 ? parts.slice(0, number + 1).join(".") : parts[0];
}

interface Block {
  key: string;
  layers: number[];
}

/** Neighbouring layers of one block, in forward order; a block that comes back later is another block. */
export function blocks(labels: readonly string[], order: readonly number[]): Block[] {
  const found: Block[] = [];
  for (const layer of order) {
    const key = blockOf(labels[layer]);
    const last = found.at(-1);
    if (last && key !== "" && last.key === key) last.layers.push(layer);
    else found.push({ key, layers: [layer] });
  }
  return found;
}

/** The rows to show: every layer, or (with `grouped`) blocks of two and more under a row of their own that folds. */
export function ridgeRows(
  labels: readonly string[],
  order: readonly number[],
  grouped: boolean,
  folded: ReadonlySet<string>,
): Row[] {
  if (!grouped) return order.map((layer) => ({ kind: "layer", layer, label: labels[layer], block: "" }));
  const rows: Row[] = [];
  for (const { key, layers } of blocks(labels, order)) {
    if (layers.length === 1) {
      rows.push({ kind: "layer", layer: layers[0], label: labels[layers[0]], block: "" });
      continue;
    }
    rows.push({ kind: "block", key, layers, folded: folded.has(key) });
    if (folded.has(key)) continue;
    for (const layer of layers) {
      rows.push({ kind: "layer", layer, label: labels[layer].slice(key.length + 1), block: key });
    }
  }
  return rows;
}

/** Which rows a viewport shows: `first` up to, not including, `end`. */
export function visibleRows(
  top: number,
  height: number,
  rowHeight: number,
  rows: number,
): { first: number; end: number } {
  const first = Math.max(0, Math.min(rows, Math.floor(top / rowHeight)));
  return { first, end: Math.max(first, Math.min(rows, Math.ceil((top + height) / rowHeight))) };
}
