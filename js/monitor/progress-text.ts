// Where a training is, in words.

import { count } from "../charts/number-format";
import type { Progress, RunState } from "./host-interface";

/** "48 s", "2 min 5 s", "1 h 12 min", "2 d 13 h". */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min${minutes < 10 && whole % 60 ? ` ${whole % 60} s` : ""}`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const PHASE_WORDS = {
  prune: "pruning",
  features: "computing features",
  test: "validating",
  checkpoint: "saving",
  norms: "measuring",
  compensate: "compensating errors",
};

/** "round 3 of 11 · epoch 12 of 30 · step 5 of 23". */
export function placeWords(now: Progress): string {
  const words = now.stage ? [now.stage] : now.rounds > 1 ? [`round ${now.round} of ${now.rounds}`] : [];
  if (now.epoch > 0) words.push(`epoch ${now.epoch} of ${now.epochs}`);
  if (now.phase === "train") words.push(`step ${now.step}${now.steps ? ` of ${now.steps}` : ""}`);
  else words.push(PHASE_WORDS[now.phase]);
  return words.join(" · ");
}

/** "12 rounds × 30 epochs × 45 steps = 16,200 steps": what the whole training takes. */
export function planWords(now: Progress): string {
  const each = now.epochs_by_round ?? [];
  if (new Set(each).size > 1) return `${now.rounds} stages of ${each.join(" + ")} epochs`;
  const counts: [number | null, string][] = [
    [now.rounds > 1 ? now.rounds : null, now.stage ? "stage" : "round"],
    [now.epochs, "epoch"],
    [now.steps, "step"],
  ];
  const factors = counts.filter(([n]) => n).map(([n, what]) => `${count(n ?? 0)} ${what}${n === 1 ? "" : "s"}`);
  const steps = now.steps ? ` = ${count(now.rounds * now.epochs * now.steps)} steps` : "";
  return factors.join(" × ") + steps;
}

/** "3,410 examples a second · 48 s left"; before the first step what it will take, and nothing of what is not known. */
export function speedWords(now: Progress, state: RunState): string {
  if (now.rate === null && now.epoch === 0) return planWords(now);
  const words = now.rate === null ? [] : [`${count(now.rate)} examples a second`];
  if (now.eta !== null && state === "running") words.push(`${duration(now.eta)} left`);
  return words.join(" · ");
}

export const STATE_WORDS: Record<RunState, string> = {
  ready: "not started",
  running: "running",
  paused: "paused",
  stopping: "stopping…",
  done: "done",
  stopped: "stopped early",
  failed: "failed",
};
