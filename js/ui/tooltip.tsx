// The tip beside the pointer.

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
      <b>{tip.title}</b>
      {tip.lines.map((line) => (
        <span key={line}>{line}</span>
      ))}
    </div>
  );
}
