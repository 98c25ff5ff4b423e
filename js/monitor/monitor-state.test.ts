// The monitor's state: how far a training is, what it is told, and that a stop shows at once.
import { describe, expect, it } from "vitest";
import type { MonitorModel, Progress, RunCommand } from "./host-interface";
import { epochsDone, MonitorState, withNow, withStart } from "./monitor-state";
import { duration, placeWords, speedWords } from "./progress-text";

const NOW: Progress = {
  phase: "train",
  round: 2,
  rounds: 3,
  epoch: 4,
  epochs: 10,
  step: 5,
  steps: 20,
  loss: 0.5,
  train: 0.8,
  test: null,
  lr: 0.01,
  sparsity: 0.36,
  nbytes: 1000,
  ratio: 2,
  rate: 3410,
  eta: 125,
};

class Fake implements MonitorModel {
  readonly values = new Map<string, unknown>([["state", "running"]]);
  readonly listeners = new Map<string, Set<() => void>>();
  readonly sent: RunCommand[] = [];
  readonly watchers = new Set<() => void>();
  living = true;

  get(name: string): unknown {
    return this.values.get(name);
  }

  on(name: string, callback: () => void): () => void {
    const all = this.listeners.get(name) ?? new Set();
    this.listeners.set(name, all.add(callback));
    return () => all.delete(callback);
  }

  send(command: RunCommand): void {
    this.sent.push(command);
  }

  alive(): boolean {
    return this.living;
  }

  onAlive(callback: () => void): () => void {
    this.watchers.add(callback);
    return () => this.watchers.delete(callback);
  }

  answer(name: string, value: unknown): void {
    this.values.set(name, value);
    for (const callback of this.listeners.get(name) ?? []) callback();
  }
}

describe("how far a training is", () => {
  it.each([
    [{}, 13.25],
    [{ steps: null }, 13.5],
    [{ phase: "test" as const }, 14],
    [{ phase: "prune" as const, epoch: 0, step: 0 }, 10],
    [{ phase: "checkpoint" as const, epoch: 10 }, 20],
    [{ round: 1, epochs_by_round: [10, 30, 5] }, 3.25],
    [{ round: 3, epochs: 5, epochs_by_round: [10, 30, 5] }, 43.25],
  ])("counts epochs through all rounds: %o", (changes, epochs) => {
    expect(epochsDone({ ...NOW, ...changes })).toBe(epochs);
  });

  it("is nothing before it tells", () => {
    expect(epochsDone(null)).toBe(0);
  });

  it("is said in words, with what is known", () => {
    expect(placeWords(NOW)).toBe("round 2 of 3 · epoch 4 of 10 · step 5 of 20");
    expect(placeWords({ ...NOW, rounds: 1, round: 1, steps: null })).toBe("epoch 4 of 10 · step 5");
    expect(placeWords({ ...NOW, phase: "test" })).toBe("round 2 of 3 · epoch 4 of 10 · validating");
    expect(speedWords(NOW, "running")).toBe("3,410 examples a second · 2 min 5 s left");
    expect(speedWords({ ...NOW, rate: null }, "paused")).toBe("");
    expect(placeWords({ ...NOW, stage: "stage 2 of 3" })).toBe("stage 2 of 3 · epoch 4 of 10 · step 5 of 20");
  });

  it("says before the first step what it will take", () => {
    const first = { ...NOW, rate: null, eta: null, epoch: 0, step: 0, phase: "test" as const };
    expect(speedWords(first, "running")).toBe("3 rounds × 10 epochs × 20 steps = 600 steps");
    expect(speedWords({ ...first, rounds: 1 }, "running")).toBe("10 epochs × 20 steps = 200 steps");
    expect(speedWords({ ...first, rounds: 1, epochs: 1, steps: null }, "running")).toBe("1 epoch");
    const stages = { ...first, stage: "stage 1 of 3", epochs_by_round: [100, 15, 15] };
    expect(speedWords(stages, "running")).toBe("3 stages of 100 + 15 + 15 epochs");
  });

  it.each([
    [0.4, "0 s"],
    [48, "48 s"],
    [120, "2 min"],
    [1500, "25 min"],
    [4320, "1 h 12 min"],
    [86_399, "23 h 59 min"],
    [86_400, "1 d 0 h"],
    [220_320, "2 d 13 h"],
  ])("leaves %d seconds as words", (seconds, words) => {
    expect(duration(seconds)).toBe(words);
  });
});

describe("what is drawn", () => {
  const COLUMNS = {
    at: [1],
    loss: [0.5],
    train: [0.9],
    test: [0.8],
    low: [0.7],
    high: [0.9],
    lr: [0.01],
    sparsity: [0.93],
  };
  const CAME = { value: 0.35, low: 0.3, high: 0.4, n: 360, done: true };

  it("begins with the score the model came with, before the first step", () => {
    const { at, test, low, high, loss, lr } = withStart(COLUMNS, CAME);
    expect([at, test, low, high]).toEqual([
      [0, 1],
      [0.35, 0.8],
      [0.3, 0.7],
      [0.4, 0.9],
    ]);
    expect([loss[0], lr[0]]).toEqual([null, null]);
    expect(withStart(withStart(COLUMNS, CAME), CAME).at).toEqual([0, 1]);
    expect(withStart(COLUMNS, null)).toBe(COLUMNS);
  });

  it("ends with the epoch under way", () => {
    const { at, train, test } = withNow(COLUMNS, NOW, 1.25);
    expect([at, train, test]).toEqual([
      [1, 1.25],
      [0.9, 0.8],
      [0.8, null],
    ]);
    expect(withNow(COLUMNS, { ...NOW, phase: "test" }, 1.25)).toBe(COLUMNS);
  });
});

describe("what a training is told", () => {
  it("a stop shows at once, and is over when the kernel says so", () => {
    const model = new Fake();
    const state = new MonitorState(model);
    state.ask({ do: "stop" });
    expect([state.run.value, state.over.value]).toEqual(["stopping", false]);
    model.answer("state", "stopped");
    expect([state.run.value, state.over.value]).toEqual(["stopped", true]);
    expect(model.sent).toEqual([{ do: "stop" }]);
  });

  it("nobody trains once the kernel is disconnected, and that shows before anything is asked", () => {
    const model = new Fake();
    const state = new MonitorState(model);
    expect(state.gone.value).toBe(false);
    model.living = false;
    for (const callback of model.watchers) callback();
    expect(state.gone.value).toBe(true);
    state.dispose();
    expect(model.watchers.size).toBe(0);
  });

  it("puts the kernel's question, and sends what it was given when the answer is yes", () => {
    const model = new Fake();
    const state = new MonitorState(model);
    const again: RunCommand = { do: "keep", name: "small", replace: true };
    model.answer("kept", { failed: false, text: "small is taken", again });
    expect(state.kept.value.again).toEqual(again);
    state.dismiss();
    expect(state.kept.value).toEqual({ failed: false, text: "" });
  });

  it("nothing, when nobody is there any more", () => {
    const model = new Fake();
    const state = new MonitorState(model);
    model.living = false;
    state.ask({ do: "pause" });
    expect(state.gone.value).toBe(true);
    expect(model.sent).toEqual([]);
  });

  it("listens to nothing once it is disposed of", () => {
    const model = new Fake();
    new MonitorState(model).dispose();
    expect([...model.listeners.values()].every((callbacks) => callbacks.size === 0)).toBe(true);
  });
});
