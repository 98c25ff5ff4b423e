// Keyboard and focus: which keys pressed inside a component are its own, and where the focus goes next.

/** Keys the notebook must hear wherever the focus is: save, and run the cell in any of its ways. */
function isNotebookKey({ key, ctrlKey, metaKey, shiftKey, altKey }: KeyboardEvent): boolean {
  if (key === "Enter") return shiftKey || ctrlKey || metaKey || altKey;
  return key.toLowerCase() === "s" && (ctrlKey || metaKey) && !altKey;
}

/** Give the focus back to what is around a component: in JupyterLab, its cell. Returns what has it now. */
function leave(root: HTMLElement): HTMLElement {
  const around = root.parentElement?.closest<HTMLElement>(".jp-Cell, [tabindex]");
  if (around) around.focus({ preventScroll: true });
  else if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
  return around ?? document.body;
}

/** Handles Escape where something inside is cancelled by it: it does not lead out of the component as well. */
export function onEscape(cancel: () => void): (event: KeyboardEvent) => void {
  return (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    cancel();
  };
}

/**
 * Keep the keys of a component from the notebook, or arrow keys would move its cells; but let those through that are the
 * notebook's, and let Escape lead out. A copy of the event is sent from outside: the component itself is marked so that
 * JupyterLab ignores keys from within it.
 */
export function guardKeys(root: HTMLElement, event: KeyboardEvent): void {
  event.stopPropagation();
  if (event.defaultPrevented) return;
  if (event.key === "Escape") leave(root);
  else if (isNotebookKey(event)) {
    const target = event.key === "Enter" ? leave(root) : (root.parentElement ?? document.body);
    const heard = !target.dispatchEvent(new KeyboardEvent("keydown", event));
    if (heard || event.key === "Enter") event.preventDefault();
  }
}

/** Move the focus once what had it is gone, so that it never falls back to the page; `where` is a selector. */
export function focusAfter(root: HTMLElement, where: string): void {
  requestAnimationFrame(() => root.querySelector<HTMLElement>(where)?.focus({ preventScroll: true }));
}
