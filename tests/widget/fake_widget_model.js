// Stands in for anywidget on a page without Jupyter: holds the traits of one widget and shows its built bundle.

class Model {
  listeners = new Map();
  changed = new Set();
  sent = [];
  widget_manager = { kernel: { status: "idle", isDisposed: false } };

  constructor(traits) {
    this.traits = revived(traits);
  }

  get(name) {
    return this.traits[name];
  }

  set(name, value) {
    if (this.traits[name] === value) return;
    this.traits[name] = value;
    this.changed.add(name);
    this.fire(`change:${name}`);
  }

  save_changes() {}

  send(message) {
    this.sent.push(message);
  }

  on(event, callback) {
    if (!this.listeners.has(event)) this.listeners.set(event, new Set());
    this.listeners.get(event).add(callback);
  }

  off(event, callback) {
    this.listeners.get(event)?.delete(callback);
  }

  fire(event) {
    for (const callback of [...(this.listeners.get(event) ?? [])]) callback();
  }

  /** What the page has set since last asked. */
  takeChanges() {
    const changes = Object.fromEntries([...this.changed].map((name) => [name, this.traits[name]]));
    this.changed.clear();
    return changes;
  }

  /** Take what the kernel says: all of it is there when the first listener hears. */
  hear(traits) {
    Object.assign(this.traits, revived(traits));
    for (const name of Object.keys(traits)) this.fire(`change:${name}`);
  }
}

/** Traits as they came in JSON: bytes are {base64: …}. */
function revived(traits) {
  const bytes = ({ base64 }) => new DataView(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer);
  return Object.fromEntries(
    Object.entries(traits).map(([name, value]) => [name, value?.base64 === undefined ? value : bytes(value)]),
  );
}

/** Show a widget's bundle in an element; `window.model` is its model. */
globalThis.showWidget = async (name, traits, element) => {
  const { default: widget } = await import(`/${name}.js`);
  const { signal } = new AbortController();
  const model = new Model(traits);
  globalThis.model = model;
  const made = typeof widget === "function" ? await widget() : widget;
  await made.initialize?.({ model, signal });
  // a new widget tells its kernel nothing for a second
  globalThis.heard = new Promise((done) => setTimeout(done, 1000));
  await made.render({ model, el: element, signal });
};
