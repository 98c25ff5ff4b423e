// What was written into the page: read back from base64 of deflate, so that no name in it can ever be markup.

/** Read the element `#data`: JSON, and the bytes that follow it. */
export async function readPageData<T>(): Promise<{ data: T; bytes: Uint8Array }> {
  const text = document.getElementById("data")?.textContent ?? "";
  const packed = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  // a stream of its own, as the page's Content-Security-Policy lets nothing be fetched, not even from the page itself
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const all = new Uint8Array(await new Response(stream).arrayBuffer());
  const end = 4 + new DataView(all.buffer).getUint32(0, true);
  return { data: JSON.parse(new TextDecoder().decode(all.subarray(4, end))), bytes: all.slice(end) };
}

/** Show a page, or say in a sentence why it cannot be shown. */
export async function open(show: (here: HTMLElement) => Promise<void>): Promise<void> {
  const here = document.getElementById("here") as HTMLElement;
  try {
    await show(here);
  } catch (error) {
    const old = typeof DecompressionStream === "undefined";
    here.textContent = old
      ? "This page needs a newer browser: Chrome or Edge 103, Firefox 113, Safari 16.4, or later."
      : `This page is damaged: write it again with to_html. (${(error as Error).message})`;
    here.className = "failed";
  }
}
