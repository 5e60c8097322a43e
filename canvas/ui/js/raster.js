// What a brush covers, on the mask's raster: the same numbers as Python's `Mask.stroke`, made as the stroke goes on.

/** The stroke of a round brush from `point` on; places are fractions of the picture, as `diameter` is. */
function makeStroke(point, diameter, hardness) {
  const radius = (diameter * MASK) / 2;
  const spacing = Math.min(Math.max(0.5, radius / 6), 2);
  const near = new Float64Array(MASK * MASK).fill(Infinity); // squared distances to the part of the path that is kept
  let kept = scaled(point);
  let end = kept;
  join(near, kept, kept);

  function scaled({ x, y }) {
    return { x: x * MASK, y: y * MASK };
  }

  /** Brings the line from a to b into a field of squared distances, as far as the brush reaches. */
  function join(field, a, b) {
    const reach = radius + 1;
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
        const [ex, ey] = [px - t * dx, py - t * dy];
        const distance2 = ex * ex + ey * ey;
        if (distance2 < field[y * MASK + x]) field[y * MASK + x] = distance2;
      }
    }
  }

  function coverage(distance2) {
    if (distance2 > (radius + 1) ** 2) return 0;
    const distance = Math.sqrt(distance2);
    const covered = Math.min(1, Math.max(0, Math.min(distance + radius, 0.5) - Math.max(distance - radius, -0.5)));
    if (hardness >= 1) return covered;
    const ramp = Math.min(1, Math.max(0, (radius - distance) / (radius * (1 - hardness))));
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
      const field = near.slice();
      join(field, kept, end);
      const data = new Uint8Array(MASK * MASK);
      for (let i = 0; i < data.length; i++) data[i] = Math.round(255 * coverage(field[i]));
      return makeMask(data);
    },
  };
}
