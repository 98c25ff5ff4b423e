// Runs in the page: notes for every slider event when its frame began and when everything it changed was painted.
(view) => {
  const part = (name) => view.querySelector(`[data-testid='${name}']`);
  const [ridge, size] = ["ridge-canvas", "size-now"].map(part);
  const sliders = ["sparsity", "channels"]; // the second is there once the kernel knows which channels can go
  const probe = { moves: [], settled: [], changes: [] };
  let open = null;

  // a task posted while a frame is made runs when its styles, layout and paint are done
  const afterPaint = (then) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = then;
    channel.port2.postMessage(null);
  };

  const finish = (move) => {
    if (!move.drawn || !move.written || move.closing) return;
    move.closing = true;
    if (open === move) open = null;
    afterPaint(() => {
      const painted = performance.now();
      probe.moves.push({ total: painted - move.start, frame: painted - move.frame, queued: painted - move.stamp });
    });
  };

  // capture: before the explorer's own handler, so that this frame callback is the first of its frame
  window.addEventListener(
    "input",
    (event) => {
      if (!view.contains(event.target) || !sliders.includes(event.target.dataset.testid) || open) return;
      const move = { start: performance.now(), stamp: event.timeStamp, frame: 0 };
      open = move;
      requestAnimationFrame(() => {
        move.frame = performance.now();
      });
    },
    { capture: true },
  );

  const clear = CanvasRenderingContext2D.prototype.clearRect;
  CanvasRenderingContext2D.prototype.clearRect = function (...box) {
    if (this.canvas === ridge && open?.frame) {
      open.drawn = true;
      finish(open);
    }
    return clear.apply(this, box);
  };

  let released = 0;
  window.addEventListener("pointerup", () => {
    released = performance.now();
  }, { capture: true });

  new MutationObserver(() => {
    if (open?.frame) {
      open.written = true;
      finish(open);
    }
    if (released && size.dataset.exact === "true") {
      const start = released;
      released = 0;
      afterPaint(() => probe.settled.push(performance.now() - start));
    }
  }).observe(size, { attributes: true, childList: true, characterData: true, subtree: true });

  window.probe = probe;
}
