// Tells light from dark, reads the colors canvases draw with, and says when they change.

export interface Colors {
  background: string;
  text: string;
  muted: string;
  line: string;
  kept: string;
  outline: string;
  hatch: string;
  grid: string;
  accuracy: string;
  hover: string;
  selected: string;
  font: string;
}

/** The colors of the root's custom properties as they compute now, mixtures and all. */
export function readColors(root: HTMLElement): Colors {
  const probe = root.appendChild(document.createElement("i"));
  const read = (name: string) => {
    probe.style.color = `var(--sw-${name})`;
    return getComputedStyle(probe).color;
  };
  const colors: Colors = {
    background: read("background"),
    text: read("text"),
    muted: read("muted"),
    line: read("line"),
    kept: read("kept"),
    outline: read("outline"),
    hatch: read("hatch"),
    grid: read("grid"),
    accuracy: read("accuracy"),
    hover: read("hover"),
    selected: read("selected"),
    font: getComputedStyle(root).fontFamily,
  };
  probe.remove();
  return colors;
}

/** Custom properties in which hosts publish their background: JupyterLab, VS Code. */
const HOST_BACKGROUNDS = ["--jp-layout-color1", "--vscode-editor-background"];

/** Whether the page around `element` is dark: by the host's background, else by what the system prefers. */
export function isDark(element: HTMLElement): boolean {
  const style = getComputedStyle(element);
  for (const name of HOST_BACKGROUNDS) {
    const color = rgb(style.getPropertyValue(name));
    if (color) return luminance(color) < 0.4;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Red, green and blue, 0…255, of any color CSS knows; null for none. */
function rgb(text: string): number[] | null {
  const context = text.trim() === "" ? null : document.createElement("canvas").getContext("2d");
  if (!context) return null;
  // A canvas turns any CSS color into #rrggbb or rgba(…); parsing them all ourselves would never be complete.
  context.fillStyle = text.trim();
  const found = context.fillStyle;
  if (found.startsWith("#")) return [1, 3, 5].map((i) => Number.parseInt(found.slice(i, i + 2), 16));
  return (found.match(/[\d.]+/g) ?? []).slice(0, 3).map(Number);
}

function luminance([red, green, blue]: number[]): number {
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
}

/** Whether a style sheet came or went. JupyterLab also swaps its icon in the head, whenever the kernel gets busy. */
function isAboutStyles({ addedNodes, removedNodes }: MutationRecord): boolean {
  return [...addedNodes, ...removedNodes].some(
    (node) => node instanceof HTMLStyleElement || (node instanceof HTMLLinkElement && /stylesheet/.test(node.rel)),
  );
}

/** Keep `data-theme` on the root in step with the page, and call back after each change; returns what stops it. */
export function watchTheme(root: HTMLElement, changed: () => void): () => void {
  const update = () => {
    const theme = isDark(root.parentElement ?? root) ? "dark" : "light";
    if (root.dataset.theme !== theme) root.dataset.theme = theme;
    changed();
  };
  const observer = new MutationObserver(update);
  const attributeFilter = [
    "class",
    "style",
    "data-jp-theme-light",
    "data-jp-theme-name",
    "data-vscode-theme-kind",
    "theme",
  ];
  for (const element of [document.documentElement, document.body]) {
    observer.observe(element, { attributes: true, attributeFilter });
  }
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", update);
  // A theme's style sheet may arrive after the attribute that names it.
  const sheets = new MutationObserver((changes) => {
    if (changes.some(isAboutStyles)) update();
  });
  sheets.observe(document.head, { childList: true });
  // A host may attach the root only after it is made; until then nothing computes to a color.
  const attached = new ResizeObserver(() => {
    attached.disconnect();
    update();
  });
  attached.observe(root);
  update();
  return () => {
    attached.disconnect();
    observer.disconnect();
    sheets.disconnect();
    media.removeEventListener("change", update);
  };
}
