// Says when the page's pixels change: the window goes to another screen, or somebody zooms.

/** Call back when `devicePixelRatio` has changed; returns what stops it. */
export function watchPixelRatio(root: HTMLElement, changed: (ratio: number) => void): () => void {
  const stop = new AbortController();
  const { signal } = stop;
  const update = () => changed(devicePixelRatio);
  // A query is about one ratio, so every change asks for the next.
  const watch = () => {
    const same = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
    const next = () => {
      watch();
      update();
    };
    same.addEventListener("change", next, { once: true, signal });
  };
  watch();
  // Emulated screens, as in a browser's developer tools, change without an event.
  root.addEventListener("pointerenter", update, { signal });
  return () => stop.abort();
}
