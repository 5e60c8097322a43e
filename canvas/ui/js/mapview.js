// How the map of features is drawn: a dot for each, and as many icons as there is room for, the best first.

const MAP_ICON = 44; // css pixels
const MAP_DOT = 2; // radius of a dot, css pixels
const MAP_MARGIN = 36;
const MAP_ZOOM = [1, 64];

/** The picture of one block's map on a canvas. `view` is {zoom, x, y}: x and y stand in the middle, 0..1. */
function makeMapView(canvas, atlas) {
  const context = canvas.getContext("2d");
  let block = null;
  let matches = null; // by label, 1 where it is lit; null: all are
  let placed = { key: "", icons: [] };
  let order = [];
  let width = 1;
  let height = 1;
  let scheduled = false;
  let chosen = -1;
  const view = { zoom: 1, x: 0.5, y: 0.5 };

  const span = () => Math.max(1, Math.min(width, height) - 2 * MAP_MARGIN);
  const lit = (feature) => !matches || matches[block.label[feature]] === 1;

  function toScreen(feature) {
    const scale = span() * view.zoom;
    return {
      x: width / 2 + (block.xy[2 * feature] / 65535 - view.x) * scale,
      y: height / 2 + (block.xy[2 * feature + 1] / 65535 - view.y) * scale,
    };
  }

  /** Which features have room for an icon at this zoom: the same ones wherever the map is moved to. */
  function place() {
    const level = Math.round(4 * Math.log2(view.zoom));
    const key = `${level}:${Math.round(span())}`;
    if (placed.key === key) return placed.icons;
    const step = (MAP_ICON * 1.12 * 65535) / (span() * 2 ** (level / 4));
    const taken = new Map();
    const icons = [];
    for (const feature of order) {
      if (!lit(feature)) continue;
      const [x, y] = [block.xy[2 * feature], block.xy[2 * feature + 1]];
      const [column, row] = [Math.floor(x / step), Math.floor(y / step)];
      let free = true;
      for (let r = row - 1; free && r <= row + 1; r++) {
        for (let c = column - 1; free && c <= column + 1; c++) {
          const other = taken.get(r * 100003 + c);
          free = other === undefined || Math.max(Math.abs(other[0] - x), Math.abs(other[1] - y)) >= step;
        }
      }
      if (!free) continue;
      taken.set(row * 100003 + column, [x, y]);
      icons.push(feature);
    }
    placed = { key, icons };
    return icons;
  }

  /** All features as dots, written as bytes: ten thousand calls of the canvas would not fit into a frame. */
  function drawDots(ratio) {
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const radius = Math.round(MAP_DOT * ratio * Math.min(2, 0.8 + 0.2 * view.zoom));
    const colours = block.colours;
    const scale = (span() * view.zoom * ratio) / 65535;
    const left = (width * ratio) / 2 - view.x * 65535 * scale;
    const top = (height * ratio) / 2 - view.y * 65535 * scale;
    for (let i = 0; i < block.count; i++) {
      const x = Math.round(left + block.xy[2 * i] * scale);
      const y = Math.round(top + block.xy[2 * i + 1] * scale);
      if (x < radius || y < radius || x >= canvas.width - radius || y >= canvas.height - radius) continue;
      const colour = lit(i) ? colours[block.label[i]] | 0xff000000 : (colours[block.label[i]] & 0xffffff) | 0x30000000;
      for (let dy = -radius; dy <= radius; dy++) {
        const reach = Math.round(Math.sqrt(radius * radius - dy * dy));
        const row = (y + dy) * canvas.width + x;
        pixels.fill(colour, row - reach, row + reach + 1);
      }
    }
    context.putImageData(image, 0, 0);
  }

  function drawIcon(feature, size, ring) {
    const { x, y } = toScreen(feature);
    if (x < -size || y < -size || x > width + size || y > height + size) return;
    const [left, top] = [x - size / 2, y - size / 2];
    context.save();
    context.beginPath();
    context.roundRect(left, top, size, size, size / 6);
    context.clip();
    if (!atlas.drawIcon(context, featureBrush(block.block, feature), left, top, size)) {
      context.fillStyle = `hsl(${atlas.hueOf(block, feature)} 40% 50%)`;
      context.fillRect(left, top, size, size);
    }
    context.restore();
    if (!ring) return;
    context.beginPath();
    context.roundRect(left, top, size, size, size / 6);
    context.lineWidth = 3;
    context.strokeStyle = getComputedStyle(canvas).getPropertyValue("--accent");
    context.stroke();
  }

  function draw() {
    scheduled = false;
    const ratio = window.devicePixelRatio || 1;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    if (!block || !width || !height) return;
    const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== across || canvas.height !== down) {
      canvas.width = across;
      canvas.height = down;
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    drawDots(ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const feature of place()) drawIcon(feature, MAP_ICON, false);
    if (chosen >= 0) drawIcon(chosen, MAP_ICON * 1.3, true);
  }

  /** A label's colour as the four bytes of a pixel. */
  function pixelOf(hue) {
    context.fillStyle = `hsl(${hue} 55% 55%)`;
    const value = parseInt(context.fillStyle.slice(1), 16);
    return ((value & 0xff) << 16) | (value & 0xff00) | (value >> 16);
  }

  const mapView = {
    view,
    toScreen,
    get block() {
      return block;
    },
    get chosen() {
      return chosen;
    },
    draw() {
      if (scheduled) return;
      scheduled = true;
      requestAnimationFrame(draw);
    },
    show(next) {
      block = next;
      block.colours ??= block.labels.map((_, i) => pixelOf(Math.round((i * ATLAS_HUE + 25) % 360)));
      order = [...block.score.keys()].sort((a, b) => block.score[b] - block.score[a]);
      placed.key = "";
      chosen = -1;
      mapView.draw();
    },
    /** Lights the features of some labels, by the labels' numbers; null: of all. */
    light(labels) {
      matches = labels && new Uint8Array(block.labels.length);
      for (const label of labels ?? []) matches[label] = 1;
      placed.key = "";
      mapView.draw();
    },
    choose(feature) {
      if (chosen === feature) return;
      chosen = feature;
      mapView.draw();
    },
    /** The view that shows everything. */
    fit() {
      Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
      mapView.draw();
    },
    zoomAt(factor, x = width / 2, y = height / 2) {
      const zoom = Math.min(MAP_ZOOM[1], Math.max(MAP_ZOOM[0], view.zoom * factor));
      const shift = 1 / (span() * view.zoom) - 1 / (span() * zoom);
      view.x += (x - width / 2) * shift;
      view.y += (y - height / 2) * shift;
      view.zoom = zoom;
      mapView.move(0, 0);
    },
    /** Moves what is seen by css pixels. */
    move(dx, dy) {
      const scale = span() * view.zoom;
      view.x = Math.min(1, Math.max(0, view.x - dx / scale));
      view.y = Math.min(1, Math.max(0, view.y - dy / scale));
      mapView.draw();
    },
    /** The feature under a place: an icon before a dot, else -1. Only lit ones are found. */
    at(x, y) {
      const nearest = (features, reach) => {
        let [best, found] = [reach, -1];
        for (const feature of features) {
          if (!lit(feature)) continue;
          const point = toScreen(feature);
          const distance = Math.max(Math.abs(point.x - x), Math.abs(point.y - y));
          if (distance < best) [best, found] = [distance, feature];
        }
        return found;
      };
      const icon = nearest(place(), MAP_ICON / 2);
      return icon >= 0 ? icon : nearest(order, 12);
    },
    /** The lit feature next to the chosen one in a direction, or the best one. */
    beside(dx, dy) {
      const features = place();
      if (chosen < 0) return features[0] ?? -1;
      const from = toScreen(chosen);
      let [best, found] = [Infinity, chosen];
      for (const feature of features) {
        if (feature === chosen) continue;
        const { x, y } = toScreen(feature);
        const along = (x - from.x) * dx + (y - from.y) * dy;
        const aside = Math.abs((x - from.x) * dy - (y - from.y) * dx);
        if (along <= 2 || aside > 1.5 * along) continue;
        if (along + 2 * aside < best) [best, found] = [along + 2 * aside, feature];
      }
      return found;
    },
    /** Brings a feature into sight. */
    reveal(feature) {
      const { x, y } = toScreen(feature);
      const edge = MAP_ICON;
      const dx = x < edge ? edge - x : x > width - edge ? width - edge - x : 0;
      const dy = y < edge ? edge - y : y > height - edge ? height - edge - y : 0;
      if (dx || dy) mapView.move(dx, dy);
    },
  };
  return mapView;
}
