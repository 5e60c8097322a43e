// What lies over the picture: strokes until the picture has followed them, a layer's mask, and the brush's outline.
// Lines of an SVG, each short: a browser paints again all around one that has changed.

const FADE_MS = 500;
const SPAN = 1000; // the width of the SVG's own units
const LINE_POINTS = 6; // of a stroke on one line
const INK_MS = 40; // strokes are drawn in steps of this, the brush's outline at every move

/** The mask as a picture of one colour, to be drawn scaled. */
function maskImage(mask, colour) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = MASK;
  const context = canvas.getContext("2d");
  const image = context.createImageData(MASK, MASK);
  for (let i = 0; i < mask.data.length; i++) image.data[4 * i + 3] = mask.data[i];
  context.putImageData(image, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, MASK, MASK);
  return canvas;
}

const TOUCHED = 0.1; // of a cell, to count as touched

/** The numbers of the cells of a grid over the picture that a mask covers enough of. */
function touchedCells(mask, rows, columns) {
  const sums = new Float64Array(rows * columns);
  mask.data.forEach((value, i) => {
    if (value) sums[Math.floor((Math.floor(i / MASK) * rows) / MASK) * columns + Math.floor(((i % MASK) * columns) / MASK)] += value;
  });
  const enough = (TOUCHED * 255 * MASK * MASK) / (rows * columns);
  return new Set([...sums.keys()].filter((i) => sums[i] >= enough));
}

function svgElement(name, className, parent) {
  const element = document.createElementNS(parent.namespaceURI, name);
  element.setAttribute("class", className);
  parent.append(element);
  return element;
}

function makeOverlay(svg, maskCanvas, ring) {
  svg.setAttribute("viewBox", `0 0 ${SPAN} ${SPAN}`);
  const cells = svgElement("path", "fb-cells", svg);
  const ink = svgElement("g", "fb-ink", svg);
  let width = svg.clientWidth;
  new ResizeObserver(() => (width = svg.clientWidth)).observe(svg);
  let waiting = []; // points of the last stroke that are not drawn yet
  let drawn = 0; // when something was
  let shape = null; // the one under the pointer
  let strokes = []; // {line, last, path, length, diameter, colour, number}; number: the request that carries it

  const placed = ({ x, y }) => `${(x * SPAN).toFixed(1)},${(y * SPAN).toFixed(1)}`;

  /** A stroke from `point` on; a line of one point twice shows as a dot. */
  function lay(point, diameter, colour) {
    const line = svgElement("polyline", "", ink);
    line.setAttribute("stroke", colour);
    line.setAttribute("stroke-width", diameter * widthAt(point) * SPAN);
    const stroke = { line, last: point, diameter, colour, number: null, path: `${placed(point)} ${placed(point)}`, length: 1 };
    line.setAttribute("points", stroke.path);
    strokes.push(stroke);
  }

  /** Draws what waits of the stroke under the pointer. */
  function draw() {
    let stroke = strokes.at(-1);
    if (!stroke || !waiting.length) return;
    drawn = performance.now();
    if (stroke.length > (stroke.last.press === undefined ? LINE_POINTS : 1)) {
      lay(stroke.last, stroke.diameter, stroke.colour);
      stroke = strokes.at(-1);
    }
    stroke.last = waiting.at(-1);
    stroke.length += waiting.length;
    stroke.path += ` ${waiting.map(placed).join(" ")}`;
    stroke.line.setAttribute("points", stroke.path);
    waiting = [];
  }

  moveCursor(null);

  function moveCursor(cursor) {
    ring.hidden = !cursor;
    if (!cursor) return;
    const across = Math.max(5, cursor.diameter * width);
    ring.style.width = ring.style.height = `${across}px`;
    ring.style.transform = `translate(${cursor.x * width - across / 2}px, ${cursor.y * width - across / 2}px)`;
    ring.classList.toggle("fb-dashed", Boolean(cursor.dashed));
  }

  return {
    moveCursor,
    begin(point, diameter, colour) {
      draw();
      lay(point, diameter, colour);
    },
    extend(points) {
      waiting.push(...points);
      if (performance.now() - drawn > INK_MS) draw();
    },
    /** A shape in place of a stroke: it can change as a whole until it is `settled`. */
    beginShape(colour) {
      const line = svgElement("path", "fb-shape", ink);
      line.setAttribute("stroke", colour);
      line.style.fill = colour;
      shape = { line, last: null, number: null };
    },
    outline(path) {
      shape.line.setAttribute("d", path);
    },
    endShape() {
      if (shape) strokes.push(shape);
      shape = null;
    },
    /** The cells of a block's `[rows, columns]` that a mask touches; none without a mask. */
    showCells(mask, [rows, columns] = [1, 1]) {
      if (!mask) {
        cells.setAttribute("d", "");
        return;
      }
      const [height, width] = [SPAN / rows, SPAN / columns];
      const touched = [...touchedCells(mask, rows, columns)].map((i) => `M${((i % columns) * width).toFixed(1)} ${(Math.floor(i / columns) * height).toFixed(1)}h${width}v${height}h${-width}Z`);
      cells.setAttribute("d", touched.join(""));
    },
    /** What has been stroked so far travels with request `number`; `going` if the pointer is still down. */
    seal(number, going) {
      draw();
      const last = strokes.at(-1);
      for (const stroke of strokes) stroke.number ??= number;
      if (going && last?.last) lay(last.last, last.diameter, last.colour);
    },
    /** The picture of request `number` is there: what it carried fades. */
    acknowledge(number) {
      const done = strokes.filter((stroke) => stroke.number !== null && stroke.number <= number);
      if (!done.length) return;
      strokes = strokes.filter((stroke) => !done.includes(stroke));
      const going = svgElement("g", "fb-ink fb-going", svg);
      going.style.animationDuration = `${FADE_MS}ms`;
      going.append(...done.map((stroke) => stroke.line));
      setTimeout(() => going.remove(), FADE_MS);
    },
    /** Forgets the strokes that never reached the server: the stroke was cancelled. */
    forget() {
      waiting = [];
      shape?.line.remove();
      shape = null;
      for (const { line, number } of strokes) if (number === null) line.remove();
      strokes = strokes.filter((stroke) => stroke.number !== null);
    },
    showMask(mask, colour) {
      maskCanvas.hidden = !mask;
      if (!mask) return;
      const context = maskCanvas.getContext("2d");
      context.clearRect(0, 0, MASK, MASK);
      context.drawImage(maskImage(mask, colour), 0, 0);
    },
  };
}
