// The tip beside the pointer, above or below it as there is room, and what shows and hides it.

import type { Signal } from "@preact/signals";

const WIDTH = 350;
/** Letters in a line of the widest tip, and the height of a line and of all else, in pixels. */
const LETTERS = 56;
const LINE = 17;
const FRAME = 28;

export interface Tip {
  /** In pixels from the root's upper left corner. */
  x: number;
  y: number;
  /** Whether it stands above the pointer, where below it there is no room in the window. */
  above: boolean;
  title: string;
  lines: readonly string[];
}

/** `within`: the width of the root in pixels. */
export function Tooltip({ tip, within }: { tip: Tip | null; within: number }) {
  if (!tip) return null;
  const left = tip.x > within - WIDTH;
  const [x, y] = [Math.round(tip.x + (left ? -12 : 14)), Math.round(tip.y + (tip.above ? -10 : 14))];
  const transform = `translate(${x}px, ${y}px) translate(${left ? "-100%" : "0"}, ${tip.above ? "-100%" : "0"})`;
  return (
    <div class="sw-tip" aria-hidden="true" style={{ transform }}>
      {tip.title && <b>{tip.title}</b>}
      {tip.lines.map((line) => (
        <span key={line}>{line}</span>
      ))}
    </div>
  );
}

/** What a tip needs of a view: the element it is placed in, and the signal that holds it. */
export interface TipHolder {
  readonly root: HTMLElement;
  readonly tip: Signal<Tip | null>;
}

/** Show a tip beside a point of the window; `top` is where it stands above, if that is not the same point. */
export function tipAt(
  view: TipHolder,
  { clientX, clientY, top = clientY }: { clientX: number; clientY: number; top?: number },
  title: string,
  lines: string[],
): void {
  const box = view.root.getBoundingClientRect();
  const rows = [title, ...lines].reduce((sum, text) => sum + Math.ceil(text.length / LETTERS), 0);
  const height = FRAME + LINE * rows;
  // above only where all of it stands on the root, since Jupyter cuts off what sticks out of an output
  const above = clientY + height > innerHeight && top - Math.max(box.top, 0) > height;
  view.tip.value = { x: clientX - box.left, y: (above ? top : clientY) - box.top, above, title, lines };
}

/** Take the tip away. */
export function hideTip(view: Pick<TipHolder, "tip">): void {
  view.tip.value = null;
}
