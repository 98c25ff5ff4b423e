// The controls that remove channels: of the whole recipe, and of one layer; shown where it is known which can go.

import { count, share, short } from "../charts/number-format";
import { denseMacs, familiesOf } from "../core/channel-families-and-counts";
import { removesChannels, withFields } from "../core/recipe";
import { sum } from "../core/search-round-and-sum";
import type { ChannelScope, Channels, LayerSketch, OverrideFields } from "../core/types";
import { Choice, type Option, options, PercentSlider } from "../ui/inputs";
import type { State } from "./explorer-state";
import { useView } from "./view-state";

const MULTIPLES = [1, 4, 8, 16, 32];

/** Whether there is anything to remove. */
export function hasChannels(state: State): boolean {
  return (state.sketch.value.channels?.families.length ?? 0) > 0;
}

/** The multiples that widths may be kept at, with the recipe's own among them. */
function multipleOptions(chosen: number): Option<number>[] {
  return [...new Set([...MULTIPLES, chosen])].map((multiple) => ({
    value: multiple,
    label: multiple === 1 ? "any" : multiple,
    title: multiple === 1 ? "widths as they come" : `widths are kept at multiples of ${multiple}: odd ones are slower`,
  }));
}

export function ChannelSlider() {
  const { state } = useView();
  const { channels } = state.recipe.value;
  if (!hasChannels(state)) return null;
  return (
    <PercentSlider
      label="Channels"
      term="channel"
      className="sw-channels"
      value={channels}
      valueText={`${share(channels)} of the channels removed: ${leftWords(state)}`}
      hint={leftWords(state)}
      testid="channels"
      change={(value) => state.edit((r) => withFields(r, { channels: value }), "channels")}
      settle={(over) => state.settle(over)}
    />
  );
}

/** What is left of the network: channels, parameters and multiply-accumulates, which are exact whatever the recipe is. */
function leftWords(state: State): string {
  const { channels, parameters } = state.sketch.value;
  const { widths, macs, left } = state.figures.value;
  if (!channels || !widths) return "";
  const { families } = channels;
  const all = sum(families.map((family) => family.channels));
  const of = `of ${families.length} ${families.length === 1 ? "width" : "widths"}`;
  if (!removesChannels(state.recipe.value)) return `removes none of ${count(all)} channels ${of}`;
  const work = macs == null ? "" : `, ${short(denseMacs(channels))} → ${short(macs)} MACs, zeros among them`;
  return `${count(all)} → ${count(sum(widths))} channels ${of}, ${count(parameters)} → ${count(left.parameters)} parameters${work}`;
}

/** Settings of the recipe that say how channels go. */
export function ChannelSettings() {
  const { state } = useView();
  const recipe = state.recipe.value;
  if (!hasChannels(state)) return null;
  const idle = removesChannels(recipe) ? "" : "no channels are removed";
  return (
    <>
      <Choice<ChannelScope>
        legend="channels go"
        term="channel"
        testid="channel-scope"
        options={options(
          ["width", "of each width", "the same share of every width"],
          ["global", "ranked together", "one ranking of all channels: those that matter least go, wherever they are"],
        )}
        value={recipe.channel_scope}
        choose={(channel_scope) => state.edit((r) => withFields(r, { channel_scope }))}
        idle={idle}
      />
      <Choice
        legend="multiples of"
        testid="multiple"
        options={multipleOptions(recipe.multiple)}
        value={recipe.multiple}
        choose={(multiple) => state.edit((r) => withFields(r, { multiple }))}
        idle={idle}
      />
    </>
  );
}

interface OwnProps {
  layer: LayerSketch;
  keep: boolean;
  /** What the recipe says of this layer by itself. */
  own: Partial<OverrideFields>;
  change(changes: Partial<OverrideFields>, gesture?: string): void;
}

/** The channels that one layer makes: how many go, or why they have to stay. */
export function OwnChannels({ layer, keep, own, change }: OwnProps) {
  const { state } = useView();
  const { channels } = state.sketch.value;
  if (!channels) return null;
  const [found] = familiesOf(channels, layer.label);
  if (!found) return <WhyFixed channels={channels} layer={layer} />;
  const { family, place } = found;
  const value = own.channels ?? state.recipe.value.channels;
  const left = state.figures.value.widths?.[place] ?? family.channels;
  const others = family.layers.filter((label) => label !== layer.label);
  const more = others.length > 2 ? ` and ${others.length - 2} more` : "";
  const shared = others.length > 0 ? `, shared with ${others.slice(0, 2).join(", ")}${more}` : "";
  const hint = `${family.channels} → ${left} channels${shared}`;
  return (
    <PercentSlider
      label="Channels"
      term="channel"
      value={keep ? 0 : value}
      valueText={`${share(value)} removed: ${hint}`}
      hint={keep ? "an uncompressed layer keeps its shape" : hint}
      disabled={keep}
      testid="own-channels"
      change={(next) => change({ channels: next }, `own channels ${layer.name}`)}
      settle={(over) => state.settle(over)}
    />
  );
}

/** A width that has to stay says why. */
function WhyFixed({ channels, layer }: { channels: Channels; layer: LayerSketch }) {
  const fixed = channels.fixed.find((width) => width.layers.includes(layer.label));
  if (!fixed) return null;
  return (
    <p class="sw-hint" title={fixed.reason} data-testid="fixed-width">
      its {count(fixed.channels)} channels have to stay: {fixed.reason}
    </p>
  );
}

/** The multiple that one layer's width is kept at. */
export function OwnMultiple({ layer, keep, own, change }: OwnProps) {
  const { state } = useView();
  const { channels, multiple } = state.recipe.value;
  if (familiesOf(state.sketch.value.channels, layer.label).length === 0) return null;
  const none = (own.channels ?? channels) === 0 ? "no channels are removed" : "";
  return (
    <Choice
      legend="multiples of"
      testid="own-multiple"
      options={multipleOptions(own.multiple ?? multiple)}
      value={own.multiple ?? multiple}
      choose={(value) => change({ multiple: value })}
      idle={keep ? "uncompressed" : none}
    />
  );
}
