// What any of our components needs of anywidget's model: named values, changes, messages, and whether a kernel is there.
import type { AnyModel } from "@anywidget/types";

/** What Jupyter's widget managers have, though anywidget does not promise it: the kernel, null once it is gone. */
interface ManagerWithKernel {
  kernel?: { status?: string; isDisposed?: boolean } | null;
}

const GONE = ["dead", "terminating"];

/** A model whose traits have other names in Python; `dispose` ends all listening. */
export class Host {
  readonly #stops = new Set<() => void>();
  #closed = false;

  constructor(
    protected readonly model: AnyModel,
    private readonly traits: Readonly<Record<string, string>>,
  ) {
    // a comm goes live before its model is initialized; news of it later is that it closed
    for (const event of ["comm_live_update", "comm:close"]) {
      this.listen(event, () => {
        this.#closed = true;
      });
    }
  }

  get(name: string): unknown {
    return this.model.get(this.trait(name));
  }

  on(name: string, callback: () => void): () => void {
    return this.listen(`change:${this.trait(name)}`, callback);
  }

  send(command: object): void {
    this.model.send(command);
  }

  alive(): boolean {
    const { kernel } = this.model.widget_manager as ManagerWithKernel;
    if (this.#closed || kernel === null) return false;
    return !kernel?.isDisposed && !GONE.includes(kernel?.status ?? "");
  }

  dispose(): void {
    for (const stop of [...this.#stops]) stop();
  }

  protected trait(name: string): string {
    return this.traits[name] ?? name;
  }

  protected listen(event: string, callback: () => void): () => void {
    const stop = () => {
      this.model.off(event, callback);
      this.#stops.delete(stop);
    };
    this.model.on(event, callback);
    this.#stops.add(stop);
    return stop;
  }
}
