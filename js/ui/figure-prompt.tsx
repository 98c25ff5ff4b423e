// Asks which figure is to be saved, how wide and in which format; and shows what was saved, with the line that makes it again.

import { type Signal, useSignal } from "@preact/signals";
import type { Ref } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { onEscape } from "./guard-keys-and-focus";

/** Widths by the names that `sw.figures` has for them. */
const WIDTHS = [
  "neurips",
  "nature-single",
  "nature-double",
  "ieee-single",
  "ieee-double",
  "icml-single",
  "icml-double",
  "a4-thesis",
  "blog",
  "slide-16x9",
  "poster",
];

const FORMATS = ["pdf", "svg", "png"];

export interface FigureRequest {
  kind: string;
  width: string;
  path: string;
}

/** A figure that was saved: where, the line of code that makes it again, and a thumbnail as base64 of a PNG. */
export interface SavedFigure {
  path: string;
  code: string;
  png: string;
}

export interface FigureChoice {
  kinds: readonly string[];
  /** What the file's name begins with. */
  name: string;
  submit(request: FigureRequest): void;
}

interface SelectProps {
  label: string;
  testid: string;
  names: readonly string[];
  chosen: Signal<string>;
  then?(name: string): void;
  first?: Ref<HTMLSelectElement>;
}

function Select({ label, testid, names, chosen, then, first }: SelectProps) {
  return (
    <label>
      {label}
      <select
        ref={first ?? null}
        value={chosen.value}
        data-testid={testid}
        onChange={(event) => {
          chosen.value = event.currentTarget.value;
          then?.(chosen.value);
        }}
      >
        {names.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

export function FigurePrompt({ choice, done }: { choice: FigureChoice; done(): void }) {
  const kind = useSignal(choice.kinds[0]);
  const width = useSignal(WIDTHS[0]);
  const format = useSignal(FORMATS[0]);
  const typed = useSignal<string | null>(null);
  const first = useRef<HTMLSelectElement>(null);
  useLayoutEffect(() => first.current?.focus(), []);
  const path = typed.value ?? `${choice.name}-${kind.value}.${format.value}`;
  return (
    <form
      class="sw-buttons sw-question"
      onSubmit={(event) => {
        event.preventDefault();
        if (path.trim() === "") return;
        choice.submit({ kind: kind.value, width: width.value, path: path.trim() });
        done();
      }}
      onKeyDown={onEscape(done)}
    >
      <Select label="figure" testid="figure-kind" names={choice.kinds} chosen={kind} first={first} />
      <Select label="width" testid="figure-width" names={WIDTHS} chosen={width} />
      <Select
        label="format"
        testid="figure-format"
        names={FORMATS}
        chosen={format}
        then={(name) => {
          if (typed.value !== null) typed.value = typed.value.replace(/\.\w+$/, `.${name}`);
        }}
      />
      <label>
        path
        <input
          value={path}
          spellcheck={false}
          aria-invalid={path.trim() === ""}
          data-testid="figure-input"
          onInput={(event) => {
            typed.value = event.currentTarget.value;
          }}
        />
      </label>
      <button type="submit" class="sw-primary" disabled={path.trim() === ""} data-testid="figure-go">
        Save
      </button>
      <button type="button" class="sw-button" onClick={done}>
        Cancel
      </button>
    </form>
  );
}

/** Opens the prompt. */
export function FigureButton({ disabled, ask }: { disabled: boolean; ask(button: "figure"): void }) {
  return (
    <button
      type="button"
      class="sw-button"
      disabled={disabled}
      title="Save a figure for a paper or a talk"
      data-testid="figure"
      onClick={() => ask("figure")}
    >
      Figure…
    </button>
  );
}

/** The figure saved last. */
export function SavedFigureView({ figure }: { figure: SavedFigure | null }) {
  if (figure === null) return null;
  return (
    <figure class="sw-saved-figure" data-testid="saved-figure">
      <img src={`data:image/png;base64,${figure.png}`} alt={`The figure in ${figure.path}`} />
      <figcaption>
        <input
          class="sw-code"
          readOnly
          value={figure.code}
          aria-label="The line of code that makes this figure again"
        />
      </figcaption>
    </figure>
  );
}
