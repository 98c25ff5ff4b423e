// The budget: how many bytes the file may have. The best recipe of that many, layer by layer, follows in one frame.

import { type Signal, useSignal, useSignalEffect } from "@preact/signals";
import { useRef } from "preact/hooks";
import { bytes } from "../charts/number-format";
import { Term } from "../ui/help";
import { useUnique } from "../ui/size-and-drawing-hooks";
import type { Budget } from "./explorer-state";
import { useView } from "./view-state";

/** Places of the slider; from one to the next the bytes grow by a constant factor. */
const PLACES = 1000;
/** From one place to the next bytes differ in their fourth digit at the least. */
const DIGITS = 4;

/** Bytes at a place of the slider. */
export function budgetAt({ least, most }: Pick<Budget, "least" | "most">, place: number): number {
  if (place >= PLACES) return most;
  const exact = least * (most / least) ** (place / PLACES);
  return Math.min(most, Math.max(least, Math.floor(Number(exact.toPrecision(DIGITS)))));
}

/** The place of so many bytes. */
export function placeOf({ least, most }: Pick<Budget, "least" | "most">, nbytes: number): number {
  if (most <= least) return 0;
  const share = Math.log(nbytes / least) / Math.log(most / least);
  return Math.round(PLACES * Math.min(1, Math.max(0, share)));
}

export function BudgetSlider() {
  const { state } = useView();
  const id = useUnique();
  const byPointer = useRef(false);
  const budget = state.budget.value;
  const refused = useSignal("");
  useSignalEffect(() => {
    state.recipeText.value;
    state.resets.value;
    refused.value = ""; // old news once the recipe moves on, or is reset to what it was
  });
  // planned as soon as the present recipe has come to rest, so that a drag needs nobody
  useSignalEffect(() => {
    if (state.figures.value.exact && !state.dragging.value && state.notice.value !== "gone") state.plan();
  });
  const known = budget.most > budget.least;
  if (state.kernel && state.sketching.value) {
    return <p class="sw-hint sw-budget">a budget is planned once all layers are sketched</p>;
  }
  if (!known && !state.kernel) return budget.why ? <p class="sw-hint sw-budget">no budget: {budget.why}</p> : null;
  const place = placeOf(budget, budget.nbytes);
  return (
    <div class="sw-slider sw-budget">
      <label for={id}>
        <Term of="budget">Budget</Term>
      </label>
      <input
        id={id}
        type="range"
        min={0}
        max={PLACES}
        step={1}
        value={place}
        disabled={!budget.ready}
        style={{ "--fill": `${(100 * place) / PLACES}%` }}
        aria-valuetext={budget.asked ? `at most ${bytes(budget.nbytes)}` : bytes(budget.nbytes)}
        aria-describedby={`${id}-hint`}
        data-testid="budget"
        data-bytes={budget.nbytes}
        data-ready={budget.ready}
        onPointerDown={() => {
          byPointer.current = true;
        }}
        onKeyDown={() => {
          byPointer.current = false;
        }}
        onInput={(event) => state.setBudget(budgetAt(budget, event.currentTarget.valueAsNumber))}
        onChange={() => state.settle(byPointer.current)}
        onPointerUp={() => state.settle(true)} // a drag back to where it began changes nothing, and is over all the same
        onPointerCancel={() => state.settle(true)}
      />
      <BytesBox hint={`${id}-hint`} refused={refused} />
      <p
        id={`${id}-hint`}
        class={`sw-hint ${refused.value ? "sw-failed" : ""}`}
        role={refused.value ? "alert" : undefined}
        data-testid="budget-hint"
      >
        {refused.value || hintOf(budget, state.kernel)}
      </p>
    </div>
  );
}

function hintOf({ asked, ready, why, least, most }: Budget, kernel: boolean): string {
  if (why) return `no plan: ${why}`;
  if (!ready) return kernel ? "planning…" : "to plan around these settings needs the kernel";
  if (asked) return "the least error in so many bytes; each layer marked ● has its own sparsity and bits";
  return `plans sparsity and bits of each layer, ${bytes(least)} to ${bytes(most)}`;
}

const UNITS = [
  { symbol: "kB", name: "kilobytes", nbytes: 1e3 },
  { symbol: "MB", name: "megabytes", nbytes: 1e6 },
  { symbol: "GB", name: "gigabytes", nbytes: 1e9 },
] as const;
type Unit = (typeof UNITS)[number];

/** The unit in which the dense file has three digits before the point, so that the box has room for every budget. */
const unitOf = (dense: number) => UNITS.find(({ nbytes }) => dense < 1000 * nbytes) ?? UNITS[2];

/** Bytes as a number of units with three digits after the point: of kB that is to the byte. */
function inUnits(nbytes: number, unit: Unit, round = Math.round): string {
  return String(round((nbytes / unit.nbytes) * 1000) / 1000);
}

/** Whole bytes of so many units, whatever a floating-point product makes of them. */
const bytesOf = (typed: number, unit: Unit) => Math.floor(unit.nbytes * typed + 1e-5);

/** Why a number can be no budget; "" if it can. It is in the unit of the dense file; what is no number is `NaN`. */
export function whyRefused(typed: number, least: number, dense: number): string {
  const unit = unitOf(dense);
  const asked = bytesOf(typed, unit);
  if (asked >= least && asked <= dense) return "";
  const said = Number.isNaN(typed) ? "that is no number" : `${typed} ${unit.symbol} is not possible`;
  // rounded so that either can be typed
  const [from, to] = [inUnits(least, unit, Math.ceil), inUnits(dense, unit, Math.floor)];
  return `${said}: the least is ${from} ${unit.symbol}, the dense file has ${to} ${unit.symbol}`;
}

/** The number box: what is typed is taken when it is left, or by Enter; what cannot be is refused whole. */
function BytesBox({ hint, refused }: { hint: string; refused: Signal<string> }) {
  const { state } = useView();
  const budget = state.budget.value;
  const dense = state.sketch.value.original_nbytes;
  const unit = unitOf(dense);
  const text = inUnits(budget.nbytes, unit);
  const take = (event: { currentTarget: HTMLInputElement }) => {
    const box = event.currentTarget;
    const typed = box.valueAsNumber;
    refused.value = whyRefused(typed, budget.least, dense);
    const asked = Math.min(bytesOf(typed, unit), budget.most);
    if (!refused.value && asked !== budget.nbytes) {
      state.setBudget(asked);
      state.settle(true);
    } else box.value = text;
  };
  return (
    <span class="sw-box">
      <input
        type="number"
        min={budget.least / unit.nbytes}
        step="any"
        disabled={!budget.ready}
        value={text}
        aria-label={`Budget in ${unit.name}`}
        aria-invalid={refused.value !== ""}
        aria-describedby={hint}
        data-testid="budget-box"
        onChange={take}
      />
      <span aria-hidden="true">{unit.symbol}</span>
    </span>
  );
}
