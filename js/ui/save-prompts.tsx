// What is asked before something is kept: the name of a variable, the path of a file.

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { type FigureChoice, FigurePrompt } from "./figure-prompt";
import { focusAfter, onEscape } from "./guard-keys-and-focus";

interface FormProps {
  label: string;
  value: string;
  action: string;
  testid: string;
  valid(text: string): boolean;
  submit(text: string): void;
  done(): void;
  children?: ComponentChildren;
}

/** One question asked in place of the buttons. */
export function Question({ label, value, action, testid, valid, submit, done, children }: FormProps) {
  const input = useRef<HTMLInputElement>(null);
  const text = useSignal(value);
  // Before it is painted: a key pressed right after the button that opened it belongs to it already.
  useLayoutEffect(() => {
    input.current?.focus();
    input.current?.select();
  }, []);
  return (
    <form
      class="sw-buttons sw-question"
      onSubmit={(event) => {
        event.preventDefault();
        if (!valid(text.value)) return;
        submit(text.value.trim());
        done();
      }}
      onKeyDown={onEscape(done)}
    >
      <label>
        {label}
        <input
          ref={input}
          value={text.value}
          spellcheck={false}
          aria-invalid={!valid(text.value)}
          data-testid={`${testid}-input`}
          onInput={(event) => {
            text.value = event.currentTarget.value;
          }}
        />
      </label>
      {children}
      <button type="submit" class="sw-primary" disabled={!valid(text.value)} data-testid={`${testid}-go`}>
        {action}
      </button>
      <button type="button" class="sw-button" onClick={done}>
        Cancel
      </button>
    </form>
  );
}

const PYTHON_NAME = /^[\p{L}_][\p{L}\p{N}_]*$/u;

interface NameProps {
  /** What is suggested. */
  name: string;
  action: string;
  testid: string;
  submit(name: string): void;
  done(): void;
}

/** Ask for the name of a variable. */
function NamePrompt({ name, action, testid, submit, done }: NameProps) {
  return (
    <Question
      label="variable"
      value={name}
      action={action}
      testid={testid}
      valid={(text) => PYTHON_NAME.test(text.trim())}
      submit={submit}
      done={done}
    />
  );
}

interface PathProps {
  /** What is suggested. */
  path: string;
  action: string;
  submit(path: string, entropy: boolean): void;
  done(): void;
}

/** Ask for the path of a file, and whether it is to be entropy-coded. */
function PathPrompt({ path, action, submit, done }: PathProps) {
  const entropy = useSignal(false);
  return (
    <Question
      label="path"
      value={path}
      action={action}
      testid="save"
      valid={(text) => text.trim() !== ""}
      submit={(text) => submit(text, entropy.value)}
      done={done}
    >
      <label class="sw-check" title="smaller to send, slower to open">
        <input
          type="checkbox"
          checked={entropy.value}
          data-testid="entropy"
          onChange={() => {
            entropy.value = !entropy.value;
          }}
        />
        entropy-coded
      </label>
    </Question>
  );
}

interface ReplaceProps {
  text: string;
  answer(replace: boolean): void;
}

/** What stands under a name already, and whether it may go. The safe answer has the focus. */
function ReplacePrompt({ text, answer }: ReplaceProps) {
  const cancel = useRef<HTMLButtonElement>(null);
  useLayoutEffect(() => cancel.current?.focus(), []);
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset needs a legend, and this one is the sentence itself
    <div class="sw-buttons sw-question" role="group" aria-label={text} onKeyDown={onEscape(() => answer(false))}>
      <p data-testid="exists">{text}</p>
      <button type="button" class="sw-button" data-testid="replace" onClick={() => answer(true)}>
        Replace
      </button>
      <button ref={cancel} type="button" class="sw-button" data-testid="cancel-replace" onClick={() => answer(false)}>
        Cancel
      </button>
    </div>
  );
}

interface SavePromptsProps {
  root: HTMLElement;
  /** The test id of the button that keeps a variable. */
  keep: string;
  actions: { keep: string; save: string };
  names: { variable: string; file: string };
  /** What the kernel asks: something stands under that name already; `button` is the one it answers. */
  question: { text: string; button: string } | null;
  answer(replace: boolean): void;
  keepAs(name: string): void;
  saveTo(path: string, entropy: boolean): void;
  /** Which figures can be saved. */
  figure: FigureChoice;
  /** What else can be asked, by the test id of its button. */
  more?: Readonly<Record<string, (done: () => void) => ComponentChildren>>;
  /** What stands there while nothing is asked. */
  buttons(ask: (button: string) => void): ComponentChildren;
}

/** Buttons that keep or save, and in their place what is asked first: a name, a path, or whether to replace. */
export function SavePrompts(props: SavePromptsProps) {
  const { root, keep, actions, names, question, answer, keepAs, saveTo, buttons } = props;
  const asking = useSignal("");
  const backTo = (button: string) => focusAfter(root, `footer [data-testid=${button}]`);
  const done = () => {
    backTo(asking.value);
    asking.value = "";
  };
  if (question) {
    const answered = (replace: boolean) => {
      answer(replace);
      backTo(question.button);
    };
    return <ReplacePrompt text={question.text} answer={answered} />;
  }
  if (asking.value === keep)
    return <NamePrompt name={names.variable} action={actions.keep} testid={keep} submit={keepAs} done={done} />;
  const other = props.more?.[asking.value];
  if (other) return <>{other(done)}</>;
  if (asking.value === "figure") return <FigurePrompt choice={props.figure} done={done} />;
  if (asking.value === "save")
    return <PathPrompt path={names.file} action={actions.save} submit={saveTo} done={done} />;
  return (
    <>
      {buttons((button) => {
        asking.value = button;
      })}
    </>
  );
}
