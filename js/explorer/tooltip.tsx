// The tip beside the pointer.

import { useView } from "./view";

const WIDTH = 250;

export function Tooltip() {
  const view = useView();
  const tip = view.tip.value;
  if (!tip) return null;
  const flip = tip.x > view.root.clientWidth - WIDTH;
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
