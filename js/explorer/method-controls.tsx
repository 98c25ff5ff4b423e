// Controls made of the schema that the kernel sends: the kinds of a role to choose from, and the settings of the chosen one.

import { useState } from "preact/hooks";
import {
  bitsLacking,
  type ChoiceControl,
  type Control,
  defaultsOf,
  entriesOf,
  entryOf,
  type KindEntry,
  type Kinds,
  type NumberBox,
  nearestBits,
  type Role,
  settingText,
} from "../core/control-schema";
import { jsonText, settingOf, withSetting } from "../core/method-settings";
import { BITS, withFields } from "../core/recipe";
import type { Kind, Recipe } from "../core/types";
import type { TermName } from "../ui/glossary-terms";
import { Choice, type Option } from "../ui/inputs";
import { useView } from "./view-state";

/** A recipe with another importance, and the scope that suits it. */
export function withImportance(recipe: Recipe, entry: KindEntry): Recipe {
  return withFields(recipe, { importance: entry.kind, scope: entry.scope ?? recipe.scope });
}

/** A recipe with another structure; from n:m back to any weight the slider stays where n:m held it. */
export function withStructure(recipe: Recipe, entry: KindEntry): Recipe {
  return withFields(recipe, { structure: entry.kind, sparsity: entry.sparsity ?? recipe.sparsity });
}

/** The fields that choosing a quantizer sets: bits that it has not give way to the nearest it has. */
export function quantizerFields(entry: KindEntry, bits: number): { quantizer: Kind; bits: number } {
  return { quantizer: entry.kind, bits: nearestBits(entry, bits) };
}

/** The bits to choose from under a quantizer. */
export function bitsOptions(kinds: Kinds, quantizer: Kind): Option<number>[] {
  const entry = entryOf(kinds, "quantizer", quantizer);
  return BITS.map((bits) => ({ value: bits, label: bits, title: bitsTitle(bits), missing: bitsLacking(entry, bits) }));
}

function bitsTitle(bits: number): string {
  if (bits === 32) return "32 bits: as they are";
  if (bits === 16) return "16 bits: half precision";
  return bits === 1 ? "1 bit: a sign, times a scale" : `${bits} bits`;
}

/** Why the choice of scales has no effect, or "". */
export function scalesIdle(kinds: Kinds, bits: number, quantizer: Kind): string {
  if (bits > 8) return `${bits} bits need no scales`;
  const { scales = true, label } = entryOf(kinds, "quantizer", quantizer);
  return scales ? "" : `${label} has one codebook for each tensor, and no scales`;
}

interface KindProps {
  of: Role;
  legend: string;
  chosen: Kind;
  choose(entry: KindEntry): void;
  idle?: string;
  testid: string;
}

/** The kinds of a role as segments; one that the schema does not list is there because the recipe has it. */
export function KindChoice({ of: role, legend, chosen, choose, idle = "", testid }: KindProps) {
  const kinds = useView().state.kinds.value;
  const entries = entriesOf(kinds, role, chosen);
  const options = entries.map(({ kind, label, title, unavailable = "" }) => {
    return { value: kind, label, title, missing: unavailable };
  });
  return (
    <Choice<string>
      legend={legend}
      term={role}
      testid={testid}
      options={options}
      value={entryOf(kinds, role, chosen).kind}
      choose={(tag) => choose(entries.find((entry) => entry.kind === tag) as KindEntry)}
      idle={idle}
    />
  );
}

interface SettingsProps {
  of: Role;
  kind: Kind;
  change(kind: Kind): void;
  /** Of the layers in question, for settings that have an effect at some only. */
  bits?: number;
  idle?: string;
  testid?: (name: string) => string;
}

/** The settings of a kind, a control each. */
export function KindSettings({ of: role, kind, change, bits = 0, idle = "", testid = dashed }: SettingsProps) {
  const entry = entryOf(useView().state.kinds.value, role, kind);
  return (
    <>
      {entry.controls.map((control) => (
        <Setting
          key={`${entry.kind} ${control.name}`}
          kind={kind}
          control={control}
          change={(value) => change(withSetting(kind, control.name, value, defaultsOf(entry)))}
          idle={idle || idleAt(control, bits)}
          testid={testid(control.name)}
        />
      ))}
    </>
  );
}

const dashed = (name: string) => name.replaceAll("_", "-");

function idleAt(control: Control, bits: number): string {
  if (control.type !== "choice" || !control.bits || control.bits.includes(bits)) return "";
  return control.idle || `no effect at ${bits} ${bits === 1 ? "bit" : "bits"}`;
}

interface SettingProps<C extends Control = Control> {
  kind: Kind;
  control: C;
  change(value: unknown): void;
  idle: string;
  testid: string;
}

function Setting({ control, ...rest }: SettingProps) {
  if (control.type === "choice") return <ChoiceSetting control={control} {...rest} />;
  const { kind, change, idle, testid } = rest;
  const value = settingOf<unknown>(kind, control.name, control.default);
  if (control.type === "number" && typeof value === "number") {
    return (
      <fieldset class="sw-choice" disabled={idle !== ""} title={idle || control.title} data-testid={testid}>
        <legend>{control.label}</legend>
        <NumberInput box={{ ...control, default: 0 }} value={value} choose={change} />
      </fieldset>
    );
  }
  return (
    <p class="sw-choice sw-fixed" title="set this in Python" data-testid={testid}>
      <span>{control.label}</span> {settingText(kind, control)}
    </p>
  );
}

/** A value as a radio button has it: what is no string, number or boolean by its JSON. */
const asOption = (value: unknown) =>
  ["string", "number", "boolean"].includes(typeof value) ? (value as string | number | boolean) : jsonText(value);

/** What settings of the built-in kinds are called in the glossary. */
const SETTINGS: Record<string, TermName> = { clipping: "clipping", symmetric: "zero-point" };

function ChoiceSetting({ kind, control, change, idle, testid }: SettingProps<ChoiceControl>) {
  const { number } = control;
  const value = settingOf<unknown>(kind, control.name, control.default);
  const options: Option<string | number | boolean>[] = control.options.map((option) => {
    return { ...option, value: asOption(option.value) };
  });
  if (number) options.push({ value: number.label, label: number.label, title: number.title });
  const listed = options.some((option) => option.value === asOption(value));
  const isNumber = number !== undefined && !listed && typeof value === "number";
  if (!listed && !isNumber) options.push({ value: asOption(value), label: settingText(kind, control) });
  const choose = (chosen: string | number | boolean) => {
    if (chosen === number?.label) change(number.default);
    else change(control.options.find((option) => asOption(option.value) === chosen)?.value ?? value);
  };
  return (
    <>
      <Choice
        legend={control.label}
        term={SETTINGS[control.name]}
        testid={testid}
        options={options}
        value={isNumber ? number.label : asOption(value)}
        choose={choose}
        idle={idle}
      />
      {isNumber && <NumberInput box={number} value={value} choose={change} disabled={idle !== ""} />}
    </>
  );
}

interface NumberProps {
  box: NumberBox;
  value: number;
  choose(value: number): void;
  disabled?: boolean;
}

/** A number of one's own; one that cannot be is refused whole, and why is said beside it. */
function NumberInput({ box, value, choose, disabled }: NumberProps) {
  const { label, title, min, max, step, unit = "" } = box;
  const [refused, setRefused] = useState("");
  const whole = Number.isInteger(step) && Number.isInteger(min);
  const limits = max === Number.MAX_SAFE_INTEGER ? `${min} or more` : `${min} to ${max}`;
  return (
    <span class="sw-box sw-number" data-whole={whole}>
      <input
        type="number"
        min={min}
        max={max}
        step={step}
        value={value}
        disabled={disabled}
        aria-label={label}
        title={title || undefined}
        aria-invalid={refused !== ""}
        onChange={(event) => {
          const typed = event.currentTarget.valueAsNumber;
          const fits = typed >= min && typed <= max && (!whole || Number.isInteger(typed));
          const said = `${event.currentTarget.value}${unit && ` ${unit}`}`;
          setRefused(fits ? "" : `${said} is not possible: ${whole ? "a whole number, " : ""}${limits}`);
          if (fits) choose(typed);
          else event.currentTarget.value = String(value);
        }}
      />
      {unit && <span aria-hidden="true">{unit}</span>}
      {refused && (
        <span class="sw-failed" role="alert">
          {refused}
        </span>
      )}
    </span>
  );
}
