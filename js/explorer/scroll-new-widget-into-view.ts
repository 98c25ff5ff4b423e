// Brings a new explorer into sight: JupyterLab scrolls on to the next cell, and past the controls of what the cell made.

/** How long the host may go on scrolling after a cell has run, and how often to look. */
const SETTLING_MS = 1500;
const LOOK_MS = 100;
const MOVED_BY_HAND = ["wheel", "pointerdown", "keydown", "touchstart"];

/** While the page settles and nobody else scrolls, keep all of an element in sight, or its top where it is too tall. */
export function scrollIntoView(element: HTMLElement, signal: AbortSignal): void {
  const over = new AbortController();
  const look = setInterval(() => {
    const box = element.getBoundingClientRect();
    const port = scrollPort(element);
    // a page or more away it is not what somebody just ran, but one of many cells run at once
    const near = box.height > 0 && box.top < port.bottom + port.height && box.bottom > port.top - port.height;
    const fits = box.height <= port.height;
    const seen = fits ? box.top >= port.top - 1 && box.bottom <= port.bottom + 1 : Math.abs(box.top - port.top) <= 1;
    if (near && !seen) element.scrollIntoView({ block: fits ? "nearest" : "start" });
  }, LOOK_MS);
  const stop = () => {
    clearInterval(look);
    over.abort();
  };
  for (const event of MOVED_BY_HAND) {
    document.addEventListener(event, stop, { capture: true, passive: true, signal: over.signal });
  }
  // whoever points at something in here is done looking for it; under a resting pointer a page that scrolls fires this as
  // well, without movement
  const pointed = (event: PointerEvent) => (event.movementX !== 0 || event.movementY !== 0) && stop();
  element.addEventListener("pointermove", pointed, { signal: over.signal });
  signal.addEventListener("abort", stop, { once: true });
  setTimeout(stop, SETTLING_MS);
}

/** What scrolls around an element, on the page. */
function scrollPort(element: HTMLElement): DOMRect {
  for (let around = element.parentElement; around; around = around.parentElement) {
    if (/auto|scroll/.test(getComputedStyle(around).overflowY) && around.scrollHeight > around.clientHeight + 1)
      return around.getBoundingClientRect();
  }
  return new DOMRect(0, 0, innerWidth, innerHeight);
}
