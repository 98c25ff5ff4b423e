// Explains terms: a term is a button that pins its explanation open beside it, with the way to the glossary.

import { type Signal, signal } from "@preact/signals";
import { type ComponentChildren, createContext } from "preact";
import { useContext, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { TERMS, type TermName } from "./glossary-terms";
import { useUnique } from "./size-and-drawing-hooks";

/** What can be chosen, and what that means. */
export type Meanings = readonly (readonly [label: string, meaning: string])[];

interface Pinned {
  term: TermName;
  button: HTMLElement;
  meanings: Meanings;
}

/** What the terms of one mounted view share. */
export interface Help {
  readonly root: HTMLElement;
  /** Begins the ids of the explanations in this view. */
  readonly id: string;
  /** Address of the glossary; "" where none is known. */
  readonly glossary: string;
  readonly pinned: Signal<Pinned | null>;
}

export function createHelp(root: HTMLElement, glossary: string): Help {
  const id = `sw${Math.random().toString(36).slice(2)}`;
  return { root, id, glossary, pinned: signal(null) };
}

const Context = createContext<Help | null>(null);
export const HelpProvider = Context.Provider;

/** The id of a term's explanation, for `aria-describedby`; undefined outside of a view. */
export function useExplanation(term: TermName | undefined): string | undefined {
  const help = useContext(Context);
  return help && term ? `${help.id}-${term}` : undefined;
}

interface TermProps {
  of: TermName;
  /** What can be chosen under the name: it is explained, too. */
  meanings?: Meanings;
  /** The words on the page; left out: a question mark, beside words that are a control themselves. */
  children?: ComponentChildren;
}

/** A word on the page that is a button: it pins its explanation open, or takes it away again. */
export function Term({ of, meanings = [], children }: TermProps) {
  const help = useContext(Context);
  const own = useUnique();
  if (!help) return <>{children}</>;
  const { title, text } = TERMS[of];
  const open = help.pinned.value?.button.dataset.term === own;
  return (
    <button
      type="button"
      class={children === undefined ? "sw-term sw-question-mark" : "sw-term"}
      aria-label={children === undefined ? `What is ${title}?` : undefined}
      aria-expanded={open}
      aria-describedby={`${help.id}-${of}`}
      title={text}
      data-term={own}
      data-explains={of}
      onClick={(event) => {
        help.pinned.value = open ? null : { term: of, button: event.currentTarget, meanings };
      }}
    >
      {children ?? "?"}
    </button>
  );
}

/** The explanations of all terms, said but not shown, and the one that is pinned. */
export function Explanations({ help }: { help: Help }) {
  const pinned = help.pinned.value;
  return (
    <>
      <div hidden>
        {Object.entries(TERMS).map(([name, { text }]) => (
          <p key={name} id={`${help.id}-${name}`}>
            {text}
          </p>
        ))}
      </div>
      {pinned && <Pin key={pinned.button.dataset.term} help={help} pinned={pinned} />}
    </>
  );
}

const GAP = 6;

function Pin({ help, pinned }: { help: Help; pinned: Pinned }) {
  const { root } = help;
  const { button, term, meanings } = pinned;
  const { title, text } = TERMS[term];
  const note = useRef<HTMLDivElement>(null);
  const [place, setPlace] = useState("");
  // Below its term, or above where that would reach out of the view; inside it from left to right.
  useLayoutEffect(() => {
    const put = () => {
      if (!note.current || !button.isConnected) {
        help.pinned.value = null;
        return;
      }
      const [around, at] = [root.getBoundingClientRect(), button.getBoundingClientRect()];
      const { offsetWidth: width, offsetHeight: height } = note.current;
      const below = at.bottom - around.top + GAP;
      const y = below + height > around.height ? at.top - around.top - GAP - height : below;
      const x = Math.max(0, Math.min(at.left - around.left, around.width - width));
      setPlace(`translate(${Math.round(x)}px, ${Math.round(Math.max(0, y))}px)`);
    };
    put();
    const observer = new ResizeObserver(put);
    observer.observe(root);
    return () => observer.disconnect();
  }, [button]);
  const close = () => {
    help.pinned.value = null;
    button.focus({ preventScroll: true });
  };
  useEffect(() => {
    const listening = new AbortController();
    const options = { capture: true, signal: listening.signal };
    root.addEventListener(
      "keydown",
      (event) => {
        if (event.key === "Escape") {
          close();
          event.preventDefault(); // or it would lead out of the widget
        } else if (event.key === "Tab" && event.target === button && !event.shiftKey) {
          note.current?.querySelector<HTMLElement>("a, button")?.focus({ preventScroll: true });
          event.preventDefault();
        }
      },
      options,
    );
    return () => listening.abort();
  }, [button]);
  /** What stands at the end of the view is beside its term for whoever goes on with Tab. */
  const tab = (event: KeyboardEvent) => {
    if (event.key !== "Tab") return;
    const stops = [...(note.current?.querySelectorAll<HTMLElement>("a, button") ?? [])];
    if (event.target !== stops[event.shiftKey ? 0 : stops.length - 1]) return;
    button.focus({ preventScroll: true });
    if (event.shiftKey) event.preventDefault();
  };
  return (
    <div
      ref={note}
      class="sw-pin"
      role="note"
      aria-label={title}
      data-testid="pin"
      style={{ transform: place, visibility: place ? undefined : "hidden" }}
      onKeyDown={tab}
    >
      <b>{title}</b>
      <button type="button" class="sw-icon" aria-label="close" data-testid="pin-close" onClick={close}>
        ×
      </button>
      <p>{text}</p>
      {meanings.length > 0 && (
        <dl>
          {meanings.map(([label, meaning]) => (
            <div key={label}>
              <dt>{label}</dt>
              <dd>{meaning}</dd>
            </div>
          ))}
        </dl>
      )}
      {help.glossary && (
        <a href={`${help.glossary}#${term}`} target="_blank" rel="noopener noreferrer">
          {title} in the glossary
        </a>
      )}
    </div>
  );
}

/** With the focus in a control, "?" pins the explanation of its term. */
export function explainByKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  const typing = target instanceof HTMLInputElement && target.type === "text";
  if (event.key !== "?" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const term = target.closest("fieldset, .sw-slider")?.querySelector<HTMLElement>(".sw-term");
  if (!term) return;
  term.click();
  event.preventDefault();
}
