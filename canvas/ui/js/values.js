// Values: masks, layers and paintings. Never changed in place: every edit is a new object, so undo is a list of them.

const MASK = 128;
const PAINTING_VERSION = 1;

/** A raster of coverage over the whole picture, 128 x 128 bytes, row by row. */
function makeMask(data) {
  return { data, deflated: null };
}

const EMPTY_MASK = makeMask(new Uint8Array(MASK * MASK));

function joinMasks(a, b, join) {
  const data = new Uint8Array(MASK * MASK);
  for (let i = 0; i < data.length; i++) data[i] = join(a.data[i], b.data[i]);
  return makeMask(data);
}

const unionOf = (a, b) => joinMasks(a, b, Math.max);
const minusOf = (a, b) => joinMasks(a, b, (x, y) => Math.min(x, 255 - y));
const isEmptyMask = (mask) => mask.data.every((value) => value === 0);

async function throughStream(bytes, stream) {
  const piped = new Blob([bytes]).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(piped).arrayBuffer());
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

/** The mask as it stands in a painting's JSON. Kept with the mask: a layer that does not change is packed once. */
function packMask(mask) {
  mask.deflated ??= throughStream(mask.data, new CompressionStream("deflate")).then(base64);
  return mask.deflated.then((deflate) => ({ size: [MASK, MASK], deflate }));
}

async function unpackMask(packed) {
  const bytes = Uint8Array.from(atob(packed.deflate), (c) => c.charCodeAt(0));
  const data = await throughStream(bytes, new DecompressionStream("deflate"));
  const [height, width] = packed.size;
  if (data.length !== width * height || width !== MASK || height !== MASK) throw new Error("bad mask");
  return makeMask(data);
}

let layersMade = 0;

/** A layer. `id` is the page's own and does not travel. */
function makeLayer(fields) {
  return Object.freeze({
    name: "", mask: EMPTY_MASK, strength: 1, mode: "add", steps: [0, 1], visible: true, locked: false, ...fields,
    id: ++layersMade,
  });
}

const withLayer = (painting, id, changes) => ({
  ...painting,
  layers: painting.layers.map((layer) => (layer.id === id ? Object.freeze({ ...layer, ...changes }) : layer)),
});

const withoutLayer = (painting, id) => ({ ...painting, layers: painting.layers.filter((layer) => layer.id !== id) });

const placeOf = (painting, id) => painting.layers.findIndex((layer) => layer.id === id);

/** With a layer at another place, from the bottom; the same painting if that is where it is or there is none. */
function withMoved(painting, id, place) {
  const from = placeOf(painting, id);
  if (place === from || place < 0 || place >= painting.layers.length) return painting;
  const layers = painting.layers.filter((layer) => layer.id !== id);
  layers.splice(place, 0, painting.layers[from]);
  return { ...painting, layers };
}

/** With a copy of a layer right above it. */
function withDuplicate(painting, id) {
  const copy = makeLayer({ ...layerOf(painting, id), id: undefined, locked: false });
  const layers = [...painting.layers];
  layers.splice(placeOf(painting, id) + 1, 0, copy);
  return { painting: { ...painting, layers }, copy };
}

/** Whether two layers do the same, so that one with both masks can stand for them. */
const mergeable = (a, b) =>
  sameBrush(a.brush, b.brush) && a.mode === b.mode && a.strength === b.strength && sameBrush(a.steps, b.steps) && a.visible === b.visible;

/** With a layer and the one below it as one. */
function withMerged(painting, id) {
  const place = placeOf(painting, id);
  const below = painting.layers[place - 1];
  return withoutLayer(withLayer(painting, below.id, { mask: unionOf(below.mask, painting.layers[place].mask) }), id);
}

/** The smallest rectangle [x0, y0, x1, y1] of whole pixels around a mask, in fractions; null if it is empty. */
function boxOf(mask) {
  let [left, top, right, bottom] = [MASK, MASK, 0, 0];
  mask.data.forEach((value, i) => {
    if (!value) return;
    const [x, y] = [i % MASK, Math.floor(i / MASK)];
    left = Math.min(left, x);
    right = Math.max(right, x + 1);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y + 1);
  });
  return right ? [left, top, right, bottom].map((edge) => edge / MASK) : null;
}

/** The mask scaled about a point and then moved, in fractions of the picture: as Python's `Mask.scaled`, `shifted`. */
function placedMask(mask, { scale: [sx, sy] = [1, 1], about: [cx, cy] = [0, 0], shift: [dx, dy] = [0, 0] }) {
  const rows = new Float64Array(MASK * MASK);
  const summed = new Float64Array(MASK + 1);

  /** One line of pixels, `read(i)`, stretched: `put(i, value)`. */
  function stretched(read, put, factor, about, move) {
    for (let i = 0; i < MASK; i++) summed[i + 1] = summed[i] + read(i);
    const upto = (edge) => {
      const at = Math.min(MASK, Math.max(0, about + (edge - move - about) / factor));
      const whole = Math.min(MASK - 1, Math.floor(at));
      return summed[whole] + (at - whole) * (summed[whole + 1] - summed[whole]);
    };
    let before = upto(0);
    for (let i = 0; i < MASK; i++) {
      const after = upto(i + 1);
      put(i, (after - before) * factor);
      before = after;
    }
  }

  for (let x = 0; x < MASK; x++) {
    stretched((y) => mask.data[y * MASK + x], (y, value) => (rows[y * MASK + x] = value), sy, cy * MASK, dy * MASK);
  }
  const data = new Uint8Array(MASK * MASK);
  for (let y = 0; y < MASK; y++) {
    const row = y * MASK;
    stretched((x) => rows[row + x], (x, value) => (data[row + x] = Math.min(255, Math.round(value))), sx, cx * MASK, dx * MASK);
  }
  return makeMask(data);
}

/** The mask mirrored in its own box. */
function flippedMask(mask, vertically) {
  const box = boxOf(mask);
  if (!box) return mask;
  const about = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  return placedMask(mask, { scale: vertically ? [1, -1] : [-1, 1], about });
}

const fadedMask = (mask, opacity) => (opacity >= 1 ? mask : makeMask(mask.data.map((value) => Math.round(opacity * value))));

const layerOf = (painting, id) => painting.layers.find((layer) => layer.id === id) ?? null;

const sameBrush = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** What to call a brush on the page. */
function brushName(brush) {
  if (!brush) return "";
  if (brush.concept) return titled(brush.concept);
  if (brush.feature !== undefined) return `${brush.block} · ${brush.feature}`;
  return brush.block;
}

const titled = (name) => name.charAt(0).toUpperCase() + name.slice(1);

// Seeds are texts of digits: JavaScript's numbers would round what Python's can be.

async function toJson(painting) {
  const layers = painting.layers.map(async ({ name, brush, mask, strength, mode, steps, visible, locked }) => ({
    name, brush, mask: await packMask(mask), strength, mode, steps, visible, locked,
  }));
  const { model, prompt, seed, steps, guidance, keep, subtract } = painting;
  const document = { featurebrush: PAINTING_VERSION, model, prompt, seed, steps, guidance, keep, subtract };
  const text = JSON.stringify({ ...document, seed: 0, layers: await Promise.all(layers) });
  return text.replace('"seed":0', `"seed":${seed}`);
}

async function fromJson(text) {
  const seed = text.match(/"seed"\s*:\s*(\d+)/)?.[1] ?? "0";
  const document = JSON.parse(text);
  const { model, prompt, steps = null, guidance = null, keep = true, subtract = false, layers = [] } = document;
  const made = layers.map(async (layer) => makeLayer({ ...layer, mask: await unpackMask(layer.mask) }));
  return { model, prompt, seed, steps, guidance, keep, subtract, layers: await Promise.all(made) };
}

/** A colour for a brush's strokes: the same one every time, neighbours in the palette far apart. */
function hueOf(brush, concepts) {
  if (brush?.feature !== undefined) return Math.round((brush.feature * 137.5 + 85) % 360);
  const place = concepts.findIndex((concept) => concept.name === brush?.concept);
  return Math.round(((place < 0 ? 5 : place) * 137.5 + 265) % 360);
}
