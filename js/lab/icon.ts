// The icon of checkpoints, in the file browser, on tabs and in the launcher: a distribution whose middle is cut out.

import { LabIcon } from "@jupyterlab/ui-components";

const SVG = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3 jp-icon-selectable" fill="#616161">
    <path d="M2 19c3 0 4-2 5.200-6.500L8.500 8v11z"/>
    <path d="M22 19c-3 0-4-2-5.200-6.500L15.500 8v11z"/>
    <path d="M2 20.500h20V22H2z"/>
    <path d="M11.250 3h1.500v3h-1.500zM11.250 8h1.500v3h-1.500zM11.250 13h1.500v3h-1.500z" opacity=".6"/>
  </g>
</svg>`;

export const checkpointIcon = new LabIcon({ name: "shrinkwidget:checkpoint", svgstr: SVG });
