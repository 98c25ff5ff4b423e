// The form parts everything is set with: a radio group drawn as segments, and a slider with a number box.

import type { ComponentChildren } from "preact";
import { useRef } from "preact/hooks";
import { useUnique } from "./hooks";

export interface Option<T> {
  value: T;
  label: ComponentChildren;
  /** What screen readers and the tooltip say, where the label is short. */
  title?: string;
}

/** Options from [value, label, title] each. */
export function options<T>(...rows: [value: T, label: string, title: string][]): Option<T>[] {
  return rows.map(([value, label, title]) => ({ value, label, title }));
}

interface ChoiceProps<T> {
  legend: string;
  options: readonly Option<T>[];
  value: T;
  choose(value: T): void;
  /** Why there is nothing to choose at present; empty when there is. */
  idle?: string;
  testid?: string;
  className?: string;
}

/** One of a few: native radio buttons, so that arrow keys and screen readers work as everywhere. */
export function Choice<T extends string | number | boolean>(props: ChoiceProps<T>) {
  const { legend, options, value, choose, idle = "", testid, className = "" } = props;
  const name = useUnique();
  return (
    <fieldset class={`sw-choice ${className}`} disabled={idle !== ""} title={idle || undefined} data-testid={testid}>
      <legend>{legend}</legend>
      <span class="sw-segments">
        {options.map((option) => (
          <label key={String(option.value)} title={idle || option.title}>
            <input
              type="radio"
              name={name}
              value={String(option.value)}
              checked={option.value === value}
              aria-label={option.title}
              onChange={() => choose(option.value)}
            />
            <span>{option.label}</span>
          </label>
        ))}
      </span>
    </fieldset>
  );
}

interface SliderProps {
  label: string;
  /** A fraction, 0 ≤ value < 1. */
  value: number;
  valueText: string;
  hint: ComponentChildren;
  disabled?: boolean;
  testid: string;
  change(value: number): void;
  /** The value has come to rest; `over` tells a drag that ended from one of a burst of keys. */
  settle(over: boolean): void;
}

/** Highest sparsity the slider reaches: beyond it, the number box and Python go on. */
const MOST = 99.9;

/** A sparsity: a native slider in percent, its number box, and a line below that says what it means. */
export function SparsitySlider(props: SliderProps) {
  const { label, value, valueText, hint, disabled = false, testid, change, settle } = props;
  const id = useUnique();
  const byPointer = useRef(false);
  const shown = Math.round(1e4 * value) / 100;
  const input = (event: Event) => {
    const percent = Number((event.currentTarget as HTMLInputElement).value);
    if (Number.isFinite(percent)) change(fraction(percent));
  };
  return (
    <div class="sw-slider">
      <label for={id}>{label}</label>
      <input
        id={id}
        type="range"
        min={0}
        max={MOST}
        step={0.1}
        value={shown}
        disabled={disabled}
        style={{ "--fill": `${(100 * Math.min(shown, MOST)) / MOST}%` }}
        aria-valuetext={valueText}
        aria-describedby={`${id}-hint`}
        data-testid={testid}
        onPointerDown={() => {
          byPointer.current = true;
        }}
        onKeyDown={() => {
          byPointer.current = false;
        }}
        onInput={input}
        onChange={() => settle(byPointer.current)}
        onPointerUp={() => settle(true)} // a drag back to where it began changes nothing, and is over all the same
        onPointerCancel={() => settle(true)}
      />
      <PercentBox
        label={label}
        value={shown}
        disabled={disabled}
        testid={testid}
        change={change}
        settle={() => settle(true)}
      />
      <p id={`${id}-hint`} class="sw-hint">
        {hint}
      </p>
    </div>
  );
}

interface BoxProps {
  label: string;
  value: number;
  disabled: boolean;
  testid: string;
  change(value: number): void;
  settle(): void;
}

/** The number box: typing previews at once, leaving it tidies what was typed. */
function PercentBox({ label, value, disabled, testid, change, settle }: BoxProps) {
  const typing = useRef(false);
  const box = useRef<HTMLInputElement>(null);
  const text = Number.isInteger(10 * value) ? value.toFixed(1) : String(value);
  const leave = () => {
    typing.current = false;
    if (box.current) box.current.value = text;
    settle();
  };
  return (
    <span class="sw-box">
      <input
        ref={box}
        type="number"
        min={0}
        max={99.99}
        step={0.1}
        disabled={disabled}
        value={typing.current ? box.current?.value : text}
        aria-label={`${label} in percent`}
        data-testid={`${testid}-box`}
        onInput={(event) => {
          typing.current = true;
          const typed = event.currentTarget.valueAsNumber;
          if (typed >= 0 && typed < 100) change(fraction(typed));
        }}
        onChange={leave}
        onBlur={leave}
      />
      <span aria-hidden="true">%</span>
    </span>
  );
}

/** A percentage as a fraction without the noise of division. */
function fraction(percent: number): number {
  return Number((percent / 100).toFixed(6));
}

interface ToggleProps {
  pressed: boolean;
  toggle(): void;
  title: string;
  testid?: string;
  children: ComponentChildren;
}

/** A small button that stays pressed. */
export function Toggle({ pressed, toggle, title, testid, children }: ToggleProps) {
  return (
    <button type="button" class="sw-toggle" aria-pressed={pressed} title={title} data-testid={testid} onClick={toggle}>
      {children}
    </button>
  );
}
