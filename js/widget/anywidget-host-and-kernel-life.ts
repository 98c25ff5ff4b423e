// What any of our components needs of anywidget's model: named values, changes, messages, and whether a kernel is there.
import type { AnyModel } from "@anywidget/types";

/** A Lumino signal. */
interface Slot {
  connect(record: () => void): void;
  disconnect(record: () => void): void;
}

/** What Jupyter's widget managers have, though anywidget does not promise it: the kernel, null once it is gone. */
interface ManagerWithKernel {
  kernel?: {
    status?: string;
    connectionStatus?: string;
    isDisposed?: boolean;
    statusChanged?: Slot;
    connectionStatusChanged?: Slot;
    disposed?: Slot;
  } | null;
  /** Only a manager that makes views can show one widget inside another. */
  create_view?: unknown;
}

const GONE = ["dead", "terminating"];
/** The process that knew this widget is no more, whatever comes after it. */
const ANOTHER = ["restarting", "autorestarting", "dead"];

/**
 * How long a new widget tells its kernel nothing. JupyterLab makes a thread (a subshell) for its messages a moment after it
 * is there; one that is sent before waits for all the cells that "Run all" has queued, and every later change for that one.
 */
export const SUBSHELL_MS = 1000;

/** A model whose traits have other names in Python; `dispose` ends all listening. */
export class AnywidgetHost {
  #waiting: (() => void)[] | null = [];
  readonly #openers: (() => void)[] = [];
  readonly #stops = new Set<() => void>();
  readonly #watchers = new Set<() => void>();
  #closed = false;

  constructor(
    protected readonly model: AnyModel,
    private readonly traits: Readonly<Record<string, string>>,
  ) {
    // a comm goes live before its model is initialized; news of it later is that it closed
    for (const event of ["comm_live_update", "comm:close"]) {
      this.listen(event, () => this.#close());
    }
    this.#watchKernel();
    const open = setTimeout(() => this.#speak(), SUBSHELL_MS);
    this.#stops.add(() => clearTimeout(open));
  }

  /** Say all that has waited, in order, if there is still somebody to hear it. */
  #speak(): void {
    const said = this.#waiting ?? [];
    this.#waiting = null;
    if (this.alive()) for (const say of [...this.#openers, ...said]) say();
  }

  #say(what: () => void): void {
    if (this.#waiting) this.#waiting.push(what);
    else what();
  }

  /** Follow the kernel's own signals: nobody else says that it died while nothing was asked of it. */
  #watchKernel(): void {
    const { kernel } = this.#manager;
    if (!kernel) return;
    const status = () => (ANOTHER.includes(kernel.status ?? "") ? this.#close() : this.#tell());
    const tell = () => this.#tell();
    const all: [Slot | undefined, () => void][] = [
      [kernel.statusChanged, status],
      [kernel.connectionStatusChanged, tell],
      [kernel.disposed, tell],
    ];
    for (const [signal, record] of all) {
      signal?.connect(record);
      this.#stops.add(() => signal?.disconnect(record));
    }
  }

  get #manager(): ManagerWithKernel {
    return (this.model.widget_manager ?? {}) as ManagerWithKernel;
  }

  #close(): void {
    this.#closed = true;
    this.#tell();
  }

  #tell(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }

  get(name: string): unknown {
    return this.model.get(this.trait(name));
  }

  on(name: string, callback: () => void): () => void {
    return this.listen(`change:${this.trait(name)}`, callback);
  }

  /** Whether what is said now is said at once. */
  get open(): boolean {
    return this.#waiting === null;
  }

  /** Call back when that begins, before all that has waited is said. */
  onOpen(callback: () => void): void {
    this.#openers.push(callback);
  }

  send(command: object): void {
    this.#say(() => this.model.send(command));
  }

  /** Tell the kernel what was set. */
  save(): void {
    this.#say(() => this.model.save_changes());
  }

  alive(): boolean {
    const { kernel } = this.#manager;
    if (this.#closed || kernel === null) return false;
    if (kernel?.connectionStatus === "disconnected") return false;
    return !kernel?.isDisposed && !GONE.includes(kernel?.status ?? "");
  }

  onAlive(callback: () => void): () => void {
    this.#watchers.add(callback);
    return () => this.#watchers.delete(callback);
  }

  get nests(): boolean {
    return typeof this.#manager.create_view === "function";
  }

  dispose(): void {
    this.#watchers.clear();
    for (const stop of [...this.#stops]) stop();
    this.#stops.clear();
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
