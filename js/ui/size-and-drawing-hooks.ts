// Hooks of the charts: the size of an element, followed as it changes, values that rest during a drag, and drawing.

import { effect } from "@preact/signals";
import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

interface Size {
  width: number;
  height: number;
}

/** A value as it was when last it was free to change. */
export function useHeld<T>(value: T, held: boolean): T {
  const last = useRef(value);
  if (!held) last.current = value;
  return last.current;
}

/**
 * Draw now, and whenever a signal that was read changes: in the same frame, where `useSignalEffect` waits for the next.
 * A drawing that fails is reported, and stops neither the next one nor whoever changed the signal.
 */
export function useDrawing(draw: () => void): void {
  const latest = useRef(draw);
  latest.current = draw;
  useEffect(
    () =>
      effect(() => {
        try {
          latest.current();
        } catch (error) {
          reportError(error);
        }
      }),
    [],
  );
}

/** A ref to put on an element, and its inner size in whole pixels (`start` until it is known). */
export function useSize<T extends HTMLElement>(start: Size): [RefObject<T | null>, Size] {
  const ref = useRef<T>(null);
  const [size, setSize] = useState(start);
  useEffect(() => {
    const element = ref.current;
    if (!element) return;
    const measure = () => {
      const { clientWidth: width, clientHeight: height } = element;
      if (width > 0) setSize((old) => (old.width === width && old.height === height ? old : { width, height }));
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);
  return [ref, size];
}

/** An id no other element of the page has: preact's own repeat from one mounted view to the next. */
export function useUnique(): string {
  return useState(() => `sw${Math.random().toString(36).slice(2)}`)[0];
}
