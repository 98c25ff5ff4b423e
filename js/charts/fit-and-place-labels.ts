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

/**
 * Shorten a text in its middle until `measure` says it fits: names of layers differ at both ends, and in their numbers, which
 * stay where they can.
 */
export function fitText(text: string, width: number, measure: (text: string) => number): string {
  if (measure(text) <= width) return text;
  for (const numbers of [true, false]) {
    for (let keep = text.length - 1; keep > 0; keep--) {
      const shorter = cut(text, keep, numbers);
      if (shorter.length < text.length && measure(shorter) <= width) return shorter;
    }
  }
  return cut(text, 1, false);
}

/** The text without its middle; `numbers`: but with the numbers in there. */
function cut(text: string, keep: number, numbers: boolean): string {
  // A third of what is kept at the front: ends of names say more ("….downsample.0").
  let from = Math.floor(keep / 3);
  let to = text.length - (keep - from);
  const digit = (i: number) => /\d/.test(text[i] ?? "");
  if (numbers) {
    // a number is not cut in two
    while (from > 0 && digit(from - 1) && digit(from)) from--;
    while (to < text.length && digit(to - 1) && digit(to)) to++;
  }
  const inside = numbers ? (text.slice(from, to).match(/\d+/g) ?? []) : [];
  return `${[text.slice(0, from), ...inside].join("…")}…${text.slice(to)}`;
}

/** The ten places around a point where a label may go, best first: the last two farther off. */
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
