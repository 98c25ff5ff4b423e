// What a checkpoint's tab shows again when JupyterLab is loaded again: open modules, order, search, recipe.

import type { Sort } from "./checkpoint-tree-and-search";

export interface Remembered {
  open?: readonly string[];
  sort?: Sort;
  query?: string;
  /** As canonical JSON. */
  recipe?: string;
}

/** Kept by the browser for its own tab, until JupyterLab's tab is closed. */
export class TabMemory {
  readonly #key: string;

  constructor(
    path: string,
    private readonly storage: Pick<Storage, "getItem" | "setItem" | "removeItem"> = sessionStorage,
  ) {
    this.#key = `shrinkwidget:${path}`;
  }

  get(): Remembered {
    try {
      const found = JSON.parse(this.storage.getItem(this.#key) ?? "{}");
      return typeof found === "object" && found !== null ? found : {};
    } catch {
      return {};
    }
  }

  set(changes: Remembered): void {
    try {
      this.storage.setItem(this.#key, JSON.stringify({ ...this.get(), ...changes }));
    } catch {
      // a full or forbidden storage only means that the next page begins anew
    }
  }

  clear(): void {
    this.storage.removeItem(this.#key);
  }
}
