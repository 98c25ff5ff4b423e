// Keeps the recipe in the page's address, `#recipe=…`, so that a link or a bookmark leads to what is shown.

/** A browser takes so many changes of an address in so long, and complains of more. */
const REST_MS = 400;
const NAME = "recipe";

/** The recipe that the address asks for; null if it asks for none. */
export function recipeInAddress(): string | null {
  return new URLSearchParams(location.hash.slice(1)).get(NAME);
}

/** Returns what writes a recipe into the address, soon and without navigating; null takes it out again. */
export function addressWriter(): (recipe: string | null) => void {
  // a document in an `<iframe srcdoc>`, or one without an origin, has no address of its own to write to
  if (!["file:", "http:", "https:"].includes(location.protocol)) return () => {};
  let timer: ReturnType<typeof setTimeout> | undefined;
  return (recipe) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (recipe === recipeInAddress()) return;
      const fragment = recipe === null ? "#" : `#${NAME}=${encodeURIComponent(recipe)}`;
      history.replaceState(history.state, "", fragment);
    }, REST_MS);
  };
}
