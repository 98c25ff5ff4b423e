// Prints a page as it is on the screen, on a sheet of just that size, in light colors.

/**
 * Charts are drawn for the width that they have, and no frame comes between the print dialog and the paper in which they
 * could be drawn for another. So the sheet takes the size of the page; a printer scales it to its paper.
 */
export function printAsShown(): void {
  const sheet = document.head.appendChild(document.createElement("style"));
  const root = document.documentElement;
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    const { scrollWidth, scrollHeight } = document.body;
    sheet.textContent = `@page { size: ${scrollWidth}px ${scrollHeight + 1}px; margin: 0 }`;
  });
  addEventListener("afterprint", () => {
    root.classList.remove("printing");
    sheet.textContent = "";
  });
}
