// Every feature of the model: what the server says of them in packed numbers, asked for once, when first needed.

const ATLAS_HUE = 137.5;

const unpacked = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

/** A brush of one feature. */
const featureBrush = (block, feature) => ({ block, feature });

/** `onKnown()` is called when labels are there. */
function makeAtlas({ server, onKnown }) {
  const blocks = new Map();
  let asked = null;

  async function ask() {
    const answer = await answerOf(server.features({}));
    if (!answer?.blocks) throw new Error(answer?.error ?? TEXT.error_no_answer);
    for (const packed of answer.blocks) {
      blocks.set(packed.block, {
        ...packed,
        label: new Uint16Array(unpacked(packed.label)),
        score: new Uint8Array(unpacked(packed.score)),
        xy: new Uint16Array(unpacked(packed.xy)),
        icon: new Int32Array(unpacked(packed.icon)),
        sheet: null,
        asking: null,
      });
    }
    onKnown();
  }

  async function fetchSheet(block) {
    const answer = await answerOf(server.features({ block: block.block }));
    if (!answer?.icons) return;
    block.sheet = await createImageBitmap(await (await fetch(answer.icons)).blob());
  }

  const atlas = {
    blocks,

    /** Every block's features; rejects with the reason in words. */
    load() {
      asked ??= ask().catch((error) => {
        asked = null;
        throw error;
      });
      return asked;
    },

    /** A block's icons, so that `drawIcon` draws them. */
    async loadIcons(name) {
      await atlas.load();
      const block = blocks.get(name);
      block.asking ??= fetchSheet(block);
      await block.asking;
    },

    /** What a feature stands for, or "". */
    labelOf({ block, feature }) {
      const known = blocks.get(block);
      return known && feature < known.count ? known.labels[known.label[feature]] : "";
    },

    scoreOf: ({ block, feature }) => (blocks.get(block)?.score[feature] ?? 0) / 255,

    /** The colour of everything that has this label. */
    hueOf: (block, feature) => Math.round((block.label[feature] * ATLAS_HUE + 25) % 360),

    /** Draws a feature's icon into a square; false if there is none (yet). */
    drawIcon(context, { block, feature }, x, y, size) {
      const known = blocks.get(block);
      const icon = known?.icon[feature] ?? -1;
      if (!known?.sheet || icon < 0) return false;
      const { icon_size: side, icons_a_row: across, sheet } = known;
      const left = (icon % across) * side;
      context.drawImage(sheet, left, Math.floor(icon / across) * side, side, side, x, y, size, size);
      return true;
    },

    /** An element with a feature's icon, which comes as soon as it is there. */
    iconOf(brush, size = 96) {
      const canvas = document.createElement("canvas");
      canvas.className = "fb-pic";
      canvas.width = canvas.height = size;
      canvas.setAttribute("aria-hidden", "true");
      const draw = () => {
        if (!atlas.drawIcon(canvas.getContext("2d"), brush, 0, 0, size)) canvas.style.setProperty("--hue", hueOf(brush, []));
      };
      atlas.loadIcons(brush.block).then(draw, () => {});
      draw();
      return canvas;
    },
  };
  return atlas;
}

/** What a score from 0 to 1 means, in words. */
function scoreWords(score) {
  const key = score >= 0.75 ? "score_good" : score >= 0.5 ? "score_fair" : score >= 0.25 ? "score_some" : "score_poor";
  return TEXT[key];
}
