// Shows another widget of the same kernel inside this one.
import type { AnyModel } from "@anywidget/types";

/** As much of Jupyter's widget manager as showing another widget takes. */
interface Manager {
  get_model(id: string): Promise<unknown>;
  create_view(model: unknown): Promise<{ el: HTMLElement; remove(): void }>;
}

/** Keep a view of the widget whose id a trait names in `record`, in sight when it comes, until `signal` aborts. */
export function showNestedView(model: AnyModel, trait: string, record: HTMLElement, signal: AbortSignal): void {
  const manager = model.widget_manager as unknown as Manager;
  let leave = () => {};
  const show = async (asked = true) => {
    leave();
    const id = model.get(trait);
    if (!id) return;
    if (typeof manager?.create_view !== "function") return; // the host shows no widget in another; the button says so
    const nested = await manager.get_model(id).catch(() => null);
    if (nested === null) return; // it was closed meanwhile: the trait will name another, or none
    const view = await manager.create_view(nested);
    record.append(view.el);
    leave = () => view.remove();
    if (signal.aborted || id !== model.get(trait)) leave();
    else if (asked) scrollWhenThere(record);
  };
  const changed = () => show();
  model.on(`change:${trait}`, changed);
  signal.addEventListener("abort", () => {
    model.off(`change:${trait}`, changed);
    leave();
  });
  show(false);
}

/** Bring an element into sight as soon as it has a size: what is in it is drawn in its own time. */
function scrollWhenThere(element: HTMLElement): void {
  new ResizeObserver((_, observer) => {
    if (element.clientHeight === 0) return;
    observer.disconnect();
    element.scrollIntoView({ block: "nearest" });
  }).observe(element);
}
