// The tip beside the pointer, and what shows and hides it.

import type { Signal } from "@preact/signals";

const WIDTH = 350;

export interface Tip {
  /** In pixels from the root's upper left corner. */
  x: number;
  y: number;
  title: string;
  lines: readonly string[];
}

/** `within`: the width of the root in pixels. */
export function Tooltip({ tip, within }: { tip: Tip | null; within: number }) {
  if (!tip) return null;
  const flip = tip.x > within - WIDTH;
  const place = `translate(${Math.round(tip.x + (flip ? -12 : 14))}px, ${Math.round(tip.y + 14)}px)`;
  return (
    <div class="sw-tip" aria-hidden="true" style={{ transform: flip ? `${place} translateX(-100%)` : place }}>
      {tip.title && <b>{tip.title}</b>}
      {tip.lines.map((line) => (
        <span key={line}>{line}</span>
      ))}
    </div>
  );
}

/** What a tip needs of a view: the element it is placed in, and the signal that holds it. */
interface TipHolder {
  readonly root: HTMLElement;
  readonly tip: Signal<Tip | null>;
}

/** Show a tip beside the pointer, in the root's coordinates. */
export function tipAt(
  view: TipHolder,
  event: { clientX: number; clientY: number },
  title: string,
  lines: string[],
): void {
  const box = view.root.getBoundingClientRect();
  view.tip.value = { x: event.clientX - box.left, y: event.clientY - box.top, title, lines };
}

/** Take the tip away. */
export function hideTip(view: Pick<TipHolder, "tip">): void {
  view.tip.value = null;
}
