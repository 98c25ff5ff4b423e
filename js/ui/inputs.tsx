// The form parts everything is set with: a radio group drawn as segments, and a slider with a number box.

import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import type { TermName } from "./glossary-terms";
import { Term, useExplanation } from "./help";
import { useUnique } from "./size-and-drawing-hooks";

export interface Option<T> {
  value: T;
  label: string | number;
  /** What it means, where the label is short: what screen readers and the tooltip say beside it. */
  title?: string;
  /** Why it cannot be chosen at present; empty when it can. */
  missing?: string;
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
  /** What the chosen value does not say. */
  hint?: string;
  /** What the legend is called in the glossary. */
  term?: TermName;
  testid?: string;
  className?: string;
}

/** One of a few: native radio buttons, so that arrow keys and screen readers work as everywhere. */
export function Choice<T extends string | number | boolean>(props: ChoiceProps<T>) {
  const { legend, options, value, choose, idle = "", hint = "", term, testid, className = "" } = props;
  const name = useUnique();
  const meanings = options.flatMap(({ label, title }): [string, string][] => (title ? [[String(label), title]] : []));
  return (
    <fieldset
      class={`sw-choice ${className}`}
      disabled={idle !== ""}
      title={idle || undefined}
      aria-describedby={useExplanation(term)}
      data-testid={testid}
    >
      <legend>
        {term ? (
          <Term of={term} meanings={meanings}>
            {legend}
          </Term>
        ) : (
          legend
        )}
      </legend>
      <span class="sw-segments">
        {options.map((option) => (
          <label key={String(option.value)} title={idle || option.missing || option.title}>
            <input
              type="radio"
              name={name}
              value={String(option.value)}
              checked={option.value === value}
              disabled={Boolean(option.missing) && option.value !== value}
              title={idle || option.missing || option.title} // describes what the visible word names
              onChange={() => choose(option.value)}
            />
            <span>{option.label}</span>
          </label>
        ))}
      </span>
      {hint && (
        <p class="sw-hint" data-testid={`${testid}-hint`}>
          {hint}
        </p>
      )}
    </fieldset>
  );
}

interface SliderProps {
  label: string;
  /** What the label is called in the glossary. */
  term?: TermName;
  /** A fraction, 0 ≤ value < 1. */
  value: number;
  valueText: string;
  hint: ComponentChildren;
  disabled?: boolean;
  testid: string;
  className?: string;
  change(value: number): void;
  /** The value has come to rest; `over` tells a drag that ended from one of a burst of keys. */
  settle(over: boolean): void;
}

const NOT_REFUSED = { why: "", at: 0 };

/** Highest share the slider reaches: beyond it, the number box and Python go on. */
const MOST = 99.9;

/** A fraction in percent as it is, to a millionth of the whole, and never rounded up to all: 0.99995 is "99.995". */
export function percentText(fraction: number): string {
  const percent = Math.min(99.9999, Number((100 * fraction).toFixed(4)));
  return Number.isInteger(10 * percent) ? percent.toFixed(1) : String(percent);
}

/** A share of the whole: a native slider in percent, its number box, and a line below that says what it means. */
export function PercentSlider(props: SliderProps) {
  const { label, term, value, valueText, hint, disabled = false, testid, className = "", change, settle } = props;
  const id = useUnique();
  const byPointer = useRef(false);
  const [refusal, setRefusal] = useState(NOT_REFUSED);
  const refused = refusal.at === value ? refusal.why : ""; // old news once the value moves on
  const percent = Math.round(1e4 * value) / 100;
  const slide = (event: Event) => {
    setRefusal(NOT_REFUSED); // the same object: drawn again before the next frame, the slider would lose a step
    change(Number((Number((event.currentTarget as HTMLInputElement).value) / 100).toFixed(6)));
  };
  return (
    <div class={`sw-slider ${className}`}>
      <label for={id}>{term ? <Term of={term}>{label}</Term> : label}</label>
      <input
        id={id}
        type="range"
        min={0}
        max={MOST}
        step={0.1}
        value={percent}
        disabled={disabled}
        style={{ "--fill": `${(100 * Math.min(percent, MOST)) / MOST}%` }}
        aria-valuetext={valueText}
        aria-describedby={`${id}-hint`}
        data-testid={testid}
        onPointerDown={() => {
          byPointer.current = true;
        }}
        onKeyDown={() => {
          byPointer.current = false;
        }}
        onInput={slide}
        onChange={() => settle(byPointer.current)}
        onPointerUp={() => settle(true)} // a drag back to where it began changes nothing, and is over all the same
        onPointerCancel={() => settle(true)}
      />
      <PercentBox
        label={label}
        value={value}
        disabled={disabled}
        testid={testid}
        hint={`${id}-hint`}
        change={change}
        settle={() => settle(true)}
        refuse={(why, at) => setRefusal({ why, at })}
        refused={refused !== ""}
      />
      <p id={`${id}-hint`} class={`sw-hint ${refused ? "sw-failed" : ""}`} role={refused ? "alert" : undefined}>
        {refused || hint}
      </p>
    </div>
  );
}

interface BoxProps {
  label: string;
  value: number;
  disabled: boolean;
  testid: string;
  /** Id of the line that says what the number means, or why it is refused. */
  hint: string;
  change(value: number): void;
  settle(): void;
  /** Say why a number was refused, and to what the value went back. */
  refuse(why: string, at: number): void;
  refused: boolean;
}

/**
 * The number box: typing previews at once, leaving it tidies what was typed. A number that cannot be is refused whole: what
 * its first digits previewed on the way ("10" of "100") is taken back.
 */
function PercentBox(props: BoxProps) {
  const { label, value, disabled, testid, hint, change, settle, refuse, refused } = props;
  const before = useRef<number | null>(null);
  const box = useRef<HTMLInputElement>(null);
  const text = percentText(value);
  const type = (event: { currentTarget: HTMLInputElement }) => {
    before.current ??= value;
    const typed = event.currentTarget.valueAsNumber;
    const next = Number((typed / 100).toFixed(6));
    const fits = next >= 0 && next < 1;
    change(fits ? next : before.current);
    const said = event.currentTarget.value;
    refuse(fits || said === "" ? "" : `${said} % is not possible: 0 to 99.9999`, before.current);
  };
  const leave = () => {
    if (before.current === null) return;
    before.current = null;
    if (box.current) box.current.value = text;
    settle();
  };
  return (
    <span class="sw-box">
      <input
        ref={box}
        type="number"
        min={0}
        max={99.9999}
        step={0.1}
        disabled={disabled}
        value={before.current === null ? text : box.current?.value}
        aria-label={`${label} in percent`}
        aria-invalid={refused}
        aria-describedby={hint}
        data-testid={`${testid}-box`}
        onInput={type}
        onChange={leave}
        onBlur={leave}
      />
      <span aria-hidden="true">%</span>
    </span>
  );
}

interface ToggleProps {
  pressed: boolean;
  toggle(): void;
  title: string;
  /** Why it does nothing at present; empty when it does. */
  idle?: string;
  testid?: string;
  children: ComponentChildren;
}

/** A small button that stays pressed. */
export function Toggle({ pressed, toggle, title, idle = "", testid, children }: ToggleProps) {
  return (
    <button
      type="button"
      class="sw-toggle"
      aria-pressed={pressed}
      aria-disabled={idle !== ""} // still to be reached by keyboard, to learn why
      title={idle || title}
      data-testid={testid}
      onClick={idle ? undefined : toggle}
    >
      {children}
    </button>
  );
}
