// Shows the tips that browsers show to a mouse alone (`title`) to the keyboard and to touch: on focus, and on a long press.

import { type Tip, type TipHolder, tipAt } from "./tooltip";

/** After so long a browser shows a title to a mouse that rests. */
const REST_MS = 600;
const MOVED = 10;

/** Show titles within a view until `signal` aborts. */
export function showTitles(view: TipHolder, signal: AbortSignal): void {
  const { root, tip } = view;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let shown: Tip | null = null;
  const hide = () => {
    clearTimeout(timer);
    if (shown && tip.value === shown) tip.value = null;
    shown = null;
  };
  const showSoon = (target: EventTarget | null, at: (titled: Element) => Parameters<typeof tipAt>[1]) => {
    hide();
    const titled = target instanceof Element ? target.closest<HTMLElement>("[title]:not([title=''])") : null;
    if (!titled || !root.contains(titled)) return;
    timer = setTimeout(() => {
      if (!titled.isConnected) return;
      tipAt(view, at(titled), "", [titled.title]);
      shown = tip.value;
    }, REST_MS);
  };
  const below = (titled: Element) => {
    const { left, top, bottom } = titled.getBoundingClientRect();
    return { clientX: left - 14, clientY: bottom - 8, top: top + 8 };
  };
  const on = (name: string, listener: (event: Event) => void, capture = false) =>
    root.addEventListener(name, listener, { signal, capture, passive: name !== "keydown" });
  on("focusin", ({ target }) => {
    if (target instanceof HTMLElement && target.matches(":focus-visible")) showSoon(target, below);
  });
  on("focusout", hide);
  on(
    "keydown",
    (event) => {
      const wasShown = shown !== null;
      hide();
      if (wasShown && (event as KeyboardEvent).key === "Escape") event.preventDefault(); // it took the tip away, no more
    },
    true,
  );
  let start = { x: 0, y: 0 };
  on("pointerdown", (event) => {
    const { pointerType, clientX: x, clientY: y, target } = event as PointerEvent;
    hide();
    if (pointerType !== "touch") return;
    start = { x, y };
    showSoon(target, () => ({ clientX: x, clientY: y }));
  });
  on("pointermove", (event) => {
    const { clientX, clientY, pointerType } = event as PointerEvent;
    if (pointerType === "touch" && Math.hypot(clientX - start.x, clientY - start.y) > MOVED) hide();
  });
  for (const end of ["pointerup", "pointercancel"]) on(end, () => clearTimeout(timer));
}
