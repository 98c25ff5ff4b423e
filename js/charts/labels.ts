// Text that has to fit: shortened names, and labels that stay off points, lines and edges.

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Point {
  x: number;
  y: number;
}

/** Shorten a text in its middle until `measure` says it fits: names of layers differ at both ends. */
export function fitText(text: string, width: number, measure: (text: string) => number): string {
  if (measure(text) <= width) return text;
  let low = 1;
  let high = text.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (measure(cut(text, middle)) <= width) low = middle;
    else high = middle - 1;
  }
  return cut(text, low);
}

function cut(text: string, keep: number): string {
  const head = Math.floor(keep / 3);
  return `${text.slice(0, head)}…${text.slice(text.length - (keep - head))}`;
}

/** The eight places around a point where a label may go, best first. */
function* around(point: Point, width: number, height: number, gap: number): Generator<Box> {
  const { x, y } = point;
  const far = gap * 2.4;
  yield { x: x + gap, y: y - height / 2, width, height };
  yield { x: x - gap - width, y: y - height / 2, width, height };
  yield { x: x + gap, y: y + gap, width, height };
  yield { x: x - gap - width, y: y + gap, width, height };
  yield { x: x - width / 2, y: y + gap, width, height };
  yield { x: x - width / 2, y: y - gap - height, width, height };
  yield { x: x + gap, y: y - gap - height, width, height };
  yield { x: x - gap - width, y: y - gap - height, width, height };
  yield { x: x - width / 2, y: y + far, width, height };
  yield { x: x - width / 2, y: y - far - height, width, height };
}

/**
 * Find a place for a label beside `point`, inside `bounds`, that covers no point and no level line.
 *
 * Returns null when every place is taken: no label is better than one on top of what it explains.
 */
export function placeLabel(
  point: Point,
  size: { width: number; height: number },
  bounds: Box,
  points: readonly Point[],
  levels: readonly number[] = [],
  gap = 9,
): Box | null {
  for (const box of around(point, size.width, size.height, gap)) {
    if (inside(box, bounds) && !points.some((p) => covers(box, p, 5)) && !levels.some((y) => crosses(box, y)))
      return box;
  }
  return null;
}

function inside(box: Box, bounds: Box): boolean {
  return (
    box.x >= bounds.x &&
    box.y >= bounds.y &&
    box.x + box.width <= bounds.x + bounds.width &&
    box.y + box.height <= bounds.y + bounds.height
  );
}

function covers(box: Box, p: Point, margin: number): boolean {
  return (
    p.x > box.x - margin &&
    p.x < box.x + box.width + margin &&
    p.y > box.y - margin &&
    p.y < box.y + box.height + margin
  );
}

function crosses(box: Box, y: number): boolean {
  return y > box.y && y < box.y + box.height;
}

/** Drop the labels of a row (by their centres and widths) that would touch the one before; the first always stays. */
export function thin<T extends { x: number; width: number }>(labels: readonly T[], gap = 8): T[] {
  const kept: T[] = [];
  for (const label of labels) {
    const last = kept.at(-1);
    if (!last || label.x - label.width / 2 >= last.x + last.width / 2 + gap) kept.push(label);
  }
  return kept;
}
