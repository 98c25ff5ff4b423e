// The adapter keeps recipe, sparsity and bits in step however one of them changes, and lets go when told to.
import type { AnyModel } from "@anywidget/types";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { SUBSHELL_MS } from "./anywidget-host-and-kernel-life";
import { adapt } from "./explorer-adapter-and-mirrored-traits";

const HEAD = '"format":"shrinkwidget-recipe","version":2';
const START = `{${HEAD},"sparsity":0.5,"bits":4}`;

/** As much of a Jupyter model as the adapter meets: values, change events while setting, messages to the kernel. */
class FakeModel {
  readonly values: Record<string, unknown>;
  readonly listeners = new Map<string, Set<() => void>>();
  readonly saved: string[] = [];
  readonly sent: unknown[] = [];
  widget_manager: { kernel?: unknown; create_view?: unknown } = { kernel: { status: "idle", isDisposed: false } };

  constructor(values: Record<string, unknown> = {}) {
    this.values = { _recipe: START, sparsity: 0.5, bits: 4, _title: "net", ...values };
  }

  get(name: string) {
    return this.values[name];
  }

  set(name: string, value: unknown) {
    if (this.values[name] === value) return;
    this.values[name] = value;
    this.fire(`change:${name}`);
  }

  save_changes() {
    this.saved.push(JSON.stringify([this.values._recipe, this.values.sparsity, this.values.bits]));
  }

  send(message: unknown) {
    this.sent.push(message);
  }

  on(event: string, callback: () => void) {
    if (!this.listeners.has(event)) this.listeners.set(event, new Set());
    this.listeners.get(event)!.add(callback);
  }

  off(event: string, callback: () => void) {
    this.listeners.get(event)?.delete(callback);
  }

  fire(event: string) {
    for (const callback of [...(this.listeners.get(event) ?? [])]) callback();
  }

  get listening() {
    return [...this.listeners.values()].reduce((sum, callbacks) => sum + callbacks.size, 0);
  }
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function justMade(values: Record<string, unknown> = {}) {
  const fake = new FakeModel(values);
  const end = new AbortController();
  return { fake, end, model: adapt(fake as unknown as AnyModel, end.signal) };
}

/** One that JupyterLab has made a thread for. */
function adapted(values: Record<string, unknown> = {}) {
  const made = justMade(values);
  vi.advanceTimersByTime(SUBSHELL_MS);
  return made;
}

it("tells the kernel nothing in its first second, and then all of it in order", () => {
  const { fake, model } = justMade();
  model.set("recipe_json", `{${HEAD},"sparsity":0.9,"bits":8}`);
  model.save();
  model.send({ do: "plan" });
  fake.set("sparsity", 0.75); // a linked slider
  vi.advanceTimersByTime(SUBSHELL_MS - 1);
  expect([fake.saved, fake.sent]).toEqual([[], []]);
  vi.advanceTimersByTime(1);
  expect(fake.saved.at(-1)).toBe(JSON.stringify([`{${HEAD},"sparsity":0.75,"bits":8}`, 0.75, 8]));
  expect(fake.sent).toEqual([{ do: "plan" }]);
  model.save();
  expect(fake.saved).toHaveLength(3);
});

it.each(["the widget", "its kernel"])("tells nothing where %s was gone within the first second", (gone) => {
  const { fake, model, end } = justMade();
  model.save();
  if (gone === "the widget") end.abort();
  else fake.widget_manager.kernel = { status: "dead" };
  vi.advanceTimersByTime(SUBSHELL_MS);
  expect(fake.saved).toEqual([]);
});

describe("the mirrors of the recipe", () => {
  it("follow a recipe set by the explorer, and are sent with it", () => {
    const { fake, model } = adapted();
    const text = `{${HEAD},"sparsity":0.9,"bits":8}`;
    model.set("recipe_json", text);
    expect([fake.values.sparsity, fake.values.bits]).toEqual([0.9, 8]);
    expect(fake.saved).toEqual([]);
    model.save();
    expect(fake.saved.at(-1)).toBe(JSON.stringify([text, 0.9, 8]));
  });

  it("bring the recipe along when a linked slider moves one of them", () => {
    const { fake, model } = adapted();
    const heard = vi.fn();
    model.on("recipe_json", heard);
    fake.set("sparsity", 0.75);
    expect(model.get("recipe_json")).toBe(`{${HEAD},"sparsity":0.75,"bits":4}`);
    fake.set("bits", 2);
    expect(model.get("recipe_json")).toBe(`{${HEAD},"sparsity":0.75,"bits":2}`);
    expect(heard).toHaveBeenCalledTimes(2);
  });

  it("free the recipe of a pattern when a slider asks for another sparsity", () => {
    const { fake, model } = adapted({ _recipe: `{${HEAD},"structure":"2:4"}`, bits: 32 });
    fake.set("sparsity", 0.25);
    expect(model.get("recipe_json")).toBe(`{${HEAD},"sparsity":0.25}`);
  });

  it.each([
    ["sparsity", 1.5],
    ["bits", 9],
  ])("go back when %s is set to %d, which no recipe can have", (name, value) => {
    const { fake, model } = adapted();
    const before = fake.values[name];
    fake.set(name, value);
    expect(fake.values[name]).toBe(before);
    expect(model.get("recipe_json")).toBe(START);
  });

  it("agree from the start", () => {
    const { fake } = adapted({ sparsity: 0, bits: 32 });
    expect([fake.values.sparsity, fake.values.bits]).toEqual([0.5, 4]);
  });
});

it("names are those of the Python traits, messages go through", () => {
  const { fake, model } = adapted();
  expect(model.get("title")).toBe("net");
  model.send({ do: "compress", name: "small" });
  expect(fake.sent).toEqual([{ do: "compress", name: "small" }]);
});

it("a callback that was stopped hears nothing more, and the end of the model stops all", () => {
  const { fake, model, end } = adapted();
  const heard = vi.fn();
  const stop = model.on("exact", heard);
  model.on("score", heard);
  stop();
  fake.set("_exact", {});
  expect(heard).not.toHaveBeenCalled();
  end.abort();
  expect(fake.listening).toBe(0);
});

/** A kernel as JupyterLab has it: a status, and signals of its changes. */
class FakeKernel {
  isDisposed = false;
  connectionStatus = "connected";
  readonly statusChanged = new FakeSignal();
  readonly connectionStatusChanged = new FakeSignal();
  readonly disposed = new FakeSignal();
  constructor(public status = "idle") {}

  become(status: string) {
    this.status = status;
    this.statusChanged.emit();
  }
}

class FakeSignal {
  readonly slots = new Set<() => void>();
  connect = (record: () => void) => this.slots.add(record);
  disconnect = (record: () => void) => this.slots.delete(record);
  emit = () => {
    for (const record of [...this.slots]) record();
  };
}

describe("the kernel's own signals", () => {
  function watched() {
    const kernel = new FakeKernel();
    const fake = new FakeModel();
    fake.widget_manager = { kernel };
    const end = new AbortController();
    const model = adapt(fake as unknown as AnyModel, end.signal);
    const heard = vi.fn();
    model.onAlive?.(heard);
    return { kernel, fake, model, heard, end };
  }

  it.each(["restarting", "autorestarting", "dead"])("say at once that it is gone: %s", (status) => {
    const { kernel, model, heard } = watched();
    kernel.become("busy");
    expect(model.alive?.()).toBe(true);
    heard.mockClear();
    kernel.become(status);
    expect(heard).toHaveBeenCalledOnce();
    expect(model.alive?.()).toBe(false);
    kernel.become("idle"); // another process, which knows nothing of this widget
    expect(model.alive?.()).toBe(false);
  });

  it("say that the server is out of reach, and that it is back", () => {
    const { kernel, model, heard } = watched();
    kernel.connectionStatus = "disconnected";
    kernel.connectionStatusChanged.emit();
    expect([heard.mock.calls.length, model.alive?.()]).toEqual([1, false]);
    kernel.connectionStatus = "connected";
    kernel.connectionStatusChanged.emit();
    expect([heard.mock.calls.length, model.alive?.()]).toEqual([2, true]);
  });

  it("are heard no more once the model goes", () => {
    const { kernel, end } = watched();
    end.abort();
    for (const signal of [kernel.statusChanged, kernel.connectionStatusChanged, kernel.disposed])
      expect(signal.slots.size).toBe(0);
  });
});

it("a host that makes no views shows no widget in another", () => {
  const { fake, model } = adapted();
  expect(model.nests).toBe(false);
  fake.widget_manager = { create_view: () => {} };
  expect(model.nests).toBe(true);
});

describe("whether anybody answers", () => {
  it("yes, with a kernel, and where the host does not tell", () => {
    const { fake, model } = adapted();
    expect(model.alive?.()).toBe(true);
    fake.widget_manager = {};
    expect(model.alive?.()).toBe(true);
  });

  it.each([[null], [{ status: "dead" }], [{ status: "idle", isDisposed: true }]])("no, with kernel %o", (kernel) => {
    const { fake, model } = adapted();
    fake.widget_manager = { kernel };
    expect(model.alive?.()).toBe(false);
  });

  it("no, once the comm has closed", () => {
    const { fake, model } = adapted();
    fake.fire("comm_live_update");
    expect(model.alive?.()).toBe(false);
  });
});
