// What is asked before an offered training begins: how, for how long, how fast.

import { useSignal } from "@preact/signals";
import { Choice, options } from "../ui/inputs";
import type { Settings } from "./host-interface";
import { useView } from "./view-state";

const METHODS = options<Settings["method"]>(
  ["fine-tune", "fine-tune", "keep training at a constant rate"],
  ["rewind", "rewind the rate", "a whole schedule: its rate falls by ten at half and three quarters"],
);

const OPTIMIZERS = options<Settings["optimizer"]>(
  ["sgd", "SGD", "stochastic gradient descent, momentum 0.9"],
  ["adam", "Adam", "adaptive moments"],
);

export function RetrainForm({ offer }: { offer: Settings }) {
  const { state } = useView();
  const settings = useSignal(offer);
  const { method, epochs, lr, optimizer } = settings.value;
  const set = (changes: Partial<Settings>) => {
    settings.value = { ...settings.value, ...changes };
  };
  const valid = Number.isInteger(epochs) && epochs >= 1 && lr > 0;
  return (
    <form
      class="sw-retrain-form"
      data-testid="offer"
      onSubmit={(event) => {
        event.preventDefault();
        if (valid) state.ask({ do: "start", ...settings.value });
      }}
    >
      <Choice
        legend="method"
        term="fine-tuning"
        options={METHODS}
        value={method}
        choose={(value) => set({ method: value })}
      />
      <NumberBox label="epochs" value={epochs} min={1} step={1} change={(value) => set({ epochs: value })} />
      <NumberBox label="rate" value={lr} min={0} step="any" change={(value) => set({ lr: value })} />
      <Choice legend="optimizer" options={OPTIMIZERS} value={optimizer} choose={(value) => set({ optimizer: value })} />
      <button type="submit" class="sw-primary" disabled={!valid || state.gone.value} data-testid="start">
        Start
      </button>
      {!valid && (
        <p class="sw-hint" data-testid="start-hint">
          {lr > 0 ? "epochs is a whole number from 1" : "rate is a number above 0"}
        </p>
      )}
    </form>
  );
}

interface NumberProps {
  label: string;
  value: number;
  min: number;
  step: number | "any";
  change(value: number): void;
}

function NumberBox({ label, value, min, step, change }: NumberProps) {
  return (
    <label class="sw-retrain-form-number">
      {label}
      <input
        type="number"
        min={min}
        step={step}
        value={Number.isFinite(value) ? value : ""}
        data-testid={label}
        onInput={(event) => change(event.currentTarget.valueAsNumber)}
      />
    </label>
  );
}
