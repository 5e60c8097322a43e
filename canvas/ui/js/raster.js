// What the tools cover, on the mask's raster: the same numbers as Python's `Mask`. Each is made from the point where the
// pointer went down, goes on with `extend(points)`, and covers `mask()`; `path()` outlines it for the screen. Places are
// fractions of the picture, as diameters are.

const LIGHTEST = 0.3; // of a brush's width, where a pen is hardly pressed

/** How wide the brush is there, of its diameter. */
const widthAt = ({ press = 1 }) => LIGHTEST + (1 - LIGHTEST) * press;

/** The stroke of a round brush; points may say how strongly a pen is pressed, `press` in 0..1. */
function makeStroke(point, diameter, hardness) {
  const full = (diameter * MASK) / 2;
  const spacing = Math.min(Math.max(0.5, scaled(point).r / 6), 2);
  const near = { beyond: new Float32Array(MASK * MASK).fill(Infinity), radius: new Float32Array(MASK * MASK) };
  let kept = scaled(point);
  let end = kept;
  join(near, kept, kept);

  function scaled(place) {
    return { x: place.x * MASK, y: place.y * MASK, r: full * widthAt(place) };
  }

  /** Brings the line from a to b into the fields of distances beyond the stroke's edge, and of its radius there. */
  function join({ beyond, radius }, a, b) {
    const reach = Math.max(a.r, b.r) + 1;
    const within = (value) => Math.min(MASK, Math.max(0, value));
    const [left, right] = [within(Math.floor(Math.min(a.x, b.x) - reach)), within(Math.ceil(Math.max(a.x, b.x) + reach))];
    const [top, bottom] = [within(Math.floor(Math.min(a.y, b.y) - reach)), within(Math.ceil(Math.max(a.y, b.y) + reach))];
    const [dx, dy] = [b.x - a.x, b.y - a.y];
    const length2 = dx * dx + dy * dy;
    for (let y = top; y < bottom; y++) {
      const py = y + 0.5 - a.y;
      for (let x = left; x < right; x++) {
        const px = x + 0.5 - a.x;
        const t = length2 > 0 ? Math.min(1, Math.max(0, (px * dx + py * dy) / length2)) : 0;
        const r = a.r + t * (b.r - a.r);
        const gap = Math.hypot(px - t * dx, py - t * dy) - r;
        const i = y * MASK + x;
        if (gap >= beyond[i]) continue;
        beyond[i] = gap;
        radius[i] = r;
      }
    }
  }

  function coverage(gap, r) {
    if (gap > 1) return 0;
    const covered = Math.min(1, Math.max(0, Math.min(gap + 2 * r, 0.5) - Math.max(gap, -0.5)));
    if (hardness >= 1) return covered;
    const ramp = Math.min(1, Math.max(0, -gap / Math.max(r * (1 - hardness), 1e-9)));
    return Math.min(covered, ramp * ramp * (3 - 2 * ramp));
  }

  return {
    extend(points) {
      for (const point of points) {
        end = scaled(point);
        if (Math.hypot(end.x - kept.x, end.y - kept.y) < spacing) continue;
        join(near, kept, end);
        kept = end;
      }
    },
    mask() {
      const field = { beyond: near.beyond.slice(), radius: near.radius.slice() };
      join(field, kept, end);
      const data = new Uint8Array(MASK * MASK);
      for (let i = 0; i < data.length; i++) data[i] = Math.round(255 * coverage(field.beyond[i], field.radius[i]));
      return makeMask(data);
    },
    path: () => "",
  };
}

/** The part of pixel i, from i to i + 1, that lies between two places. */
const overlapOf = (low, high) => (i) => Math.min(1, Math.max(0, Math.min(high, i + 1) - Math.max(low, i)));

/** From one corner of a box to the opposite one; `square` in the last point keeps its sides equal. */
function makeBox(from, cover, outline) {
  let to = from;

  function sides() {
    let [dx, dy] = [to.x - from.x, to.y - from.y];
    if (to.square) {
      const side = Math.max(Math.abs(dx), Math.abs(dy));
      [dx, dy] = [dx < 0 ? -side : side, dy < 0 ? -side : side];
    }
    return [Math.min(from.x, from.x + dx), Math.min(from.y, from.y + dy), Math.abs(dx), Math.abs(dy)];
  }

  return {
    extend: (points) => (to = points.at(-1)),
    mask: () => makeMask(cover(...sides().map((length) => length * MASK))),
    path: () => outline(...sides().map((length) => length * SPAN)),
  };
}

const makeRect = (from) =>
  makeBox(
    from,
    (x, y, width, height) => {
      const data = new Uint8Array(MASK * MASK);
      const [across, down] = [overlapOf(x, x + width), overlapOf(y, y + height)];
      for (let i = 0; i < data.length; i++) data[i] = Math.round(255 * down(Math.floor(i / MASK)) * across(i % MASK));
      return data;
    },
    (x, y, width, height) => `M${x} ${y}h${width}v${height}h${-width}Z`,
  );

const SCANLINES = 16;

const makeEllipse = (from) =>
  makeBox(
    from,
    (x, y, width, height) => {
      const covered = new Float64Array(MASK * MASK);
      const [cx, cy, rx, ry] = [x + width / 2, y + height / 2, width / 2, height / 2];
      for (let line = 0; line < MASK * SCANLINES; line++) {
        const above = ((line + 0.5) / SCANLINES - cy) / ry;
        const half = rx * Math.sqrt(Math.max(0, 1 - above * above));
        if (!(half > 0)) continue;
        const across = overlapOf(cx - half, cx + half);
        const row = Math.floor(line / SCANLINES) * MASK;
        const [left, right] = [Math.max(0, Math.floor(cx - half)), Math.min(MASK, Math.ceil(cx + half))];
        for (let i = left; i < right; i++) covered[row + i] += across(i) / SCANLINES;
      }
      return Uint8Array.from(covered, (share) => Math.round(255 * share));
    },
    (x, y, width, height) => {
      const [rx, ry] = [width / 2, height / 2];
      return `M${x} ${y + ry}a${rx} ${ry} 0 1 0 ${width} 0a${rx} ${ry} 0 1 0 ${-width} 0Z`;
    },
  );

/** The inside of a line drawn by hand, from its end back to its beginning; where it crosses itself, even-odd. */
function makeLasso(from) {
  const points = [from];
  const spelled = (scale) => `M${points.map(({ x, y }) => `${(x * scale).toFixed(2)} ${(y * scale).toFixed(2)}`).join("L")}Z`;
  return {
    extend: (more) => points.push(...more),
    mask() {
      const context = new OffscreenCanvas(MASK, MASK).getContext("2d", { willReadFrequently: true });
      context.fill(new Path2D(spelled(MASK)), "evenodd");
      const { data } = context.getImageData(0, 0, MASK, MASK);
      return makeMask(Uint8Array.from({ length: MASK * MASK }, (_, i) => data[4 * i + 3]));
    },
    path: () => spelled(SPAN),
  };
}

/** What hangs together in `pixels` (RGBA, 128 x 128) and has about the colour of the place. */
function makeFlood({ x, y }, pixels, tolerance) {
  const within = (value) => Math.min(MASK - 1, Math.max(0, Math.floor(value * MASK)));
  const seed = within(y) * MASK + within(x);
  const alike = (i) => [0, 1, 2].reduce((sum, c) => sum + Math.abs(pixels[4 * i + c] - pixels[4 * seed + c]), 0) <= 765 * tolerance;
  const data = new Uint8Array(MASK * MASK);
  const edge = [seed];
  data[seed] = 255;
  while (edge.length) {
    const i = edge.pop();
    const column = i % MASK;
    for (const [next, inside] of [[i - 1, column > 0], [i + 1, column < MASK - 1], [i - MASK, i >= MASK], [i + MASK, i < MASK * (MASK - 1)]]) {
      if (!inside || data[next] || !alike(next)) continue;
      data[next] = 255;
      edge.push(next);
    }
  }
  const mask = makeMask(data);
  return { extend() {}, mask: () => mask, path: () => "" };
}
