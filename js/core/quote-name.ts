// How messages show a name, a key or another value from outside; the twin of `quoted` in shrinkwidget/errors.py.

const MOST = 100;
/** Letters that could hide or reorder parts of a message and that JSON leaves as they are. */
const INVISIBLE = /[\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202f\u205f-\u206f\ufeff\ufff9-\ufffb]/g;

/** The value as JSON text, in which nothing is hidden, and not too long. */
export function quoteName(value: unknown): string {
  const text = (JSON.stringify(value) ?? String(value)).replace(INVISIBLE, (letter) => {
    return `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
  return text.length <= 2 * MOST ? text : `${text.slice(0, MOST)} … ${text.slice(-MOST)}`;
}
