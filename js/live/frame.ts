// A page inside an `<iframe>` of a notebook: it takes the notebook's colors, and as much height as it needs.

/** What JupyterLab's themes, and pages made by nbconvert, call their colors and fonts. */
const THEME = [
  "--jp-layout-color0",
  "--jp-layout-color1",
  "--jp-ui-font-color1",
  "--jp-ui-font-family",
  "--jp-code-font-family",
];

/** Follow the page around this one, if there is one that lets itself be looked at. */
export function fitIntoFrame(): void {
  const frame = frameAround();
  if (!frame) return;
  const root = document.documentElement;
  root.dataset.framed = "";
  frame.dataset.alive = ""; // the picture that stands in for the page may go
  followTheme(frame, root);
  const fit = () => {
    frame.style.height = `${Math.ceil(document.body.getBoundingClientRect().height)}px`;
  };
  new ResizeObserver(fit).observe(document.body);
}

/** The element this page is shown in; null if it is on its own, or its surroundings are of another origin. */
function frameAround(): HTMLElement | null {
  try {
    return window.frameElement instanceof parent.window.HTMLElement ? (window.frameElement as HTMLElement) : null;
  } catch {
    return null;
  }
}

function followTheme(frame: HTMLElement, root: HTMLElement): void {
  const update = () => {
    const style = parent.getComputedStyle(frame);
    for (const name of THEME) {
      const value = style.getPropertyValue(name).trim();
      if (value !== root.style.getPropertyValue(name)) root.style.setProperty(name, value);
    }
  };
  const { body, head } = frame.ownerDocument;
  const attributeFilter = ["class", "style", "data-jp-theme-light", "data-jp-theme-name", "data-vscode-theme-kind"];
  const observer = new MutationObserver(update);
  observer.observe(body, { attributes: true, attributeFilter });
  observer.observe(head, { childList: true }); // a theme's style sheet may come after the attribute that names it
  update();
}
