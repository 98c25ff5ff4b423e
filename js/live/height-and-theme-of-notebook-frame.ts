// A page inside an `<iframe>` of a notebook: it takes the notebook's colors, and as much height as it needs.

/** The page's colors and fonts, by what JupyterLab, and pages made by nbconvert, call them, and then VS Code. */
const THEME: Record<string, readonly string[]> = {
  "--jp-layout-color0": ["--jp-layout-color0", "--vscode-editor-background"],
  "--jp-layout-color1": ["--jp-layout-color1", "--vscode-editor-background"],
  "--jp-ui-font-color1": ["--jp-ui-font-color1", "--vscode-editor-foreground"],
  "--jp-ui-font-family": ["--jp-ui-font-family", "--vscode-font-family"],
  "--jp-code-font-family": ["--jp-code-font-family", "--vscode-editor-font-family"],
};

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
    for (const [name, theirs] of Object.entries(THEME)) {
      const value = theirs.map((their) => style.getPropertyValue(their).trim()).find(Boolean) ?? "";
      if (value !== root.style.getPropertyValue(name)) root.style.setProperty(name, value);
    }
  };
  const { documentElement, body, head } = frame.ownerDocument;
  const attributeFilter = ["class", "style", "data-jp-theme-light", "data-jp-theme-name", "data-vscode-theme-kind"];
  const observer = new MutationObserver(update);
  for (const element of [documentElement, body]) observer.observe(element, { attributes: true, attributeFilter });
  observer.observe(head, { childList: true }); // a theme's style sheet may come after the attribute that names it
  update();
}
