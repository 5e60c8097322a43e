// What lies over the picture: strokes until the picture has followed them, a layer's mask, and the brush's outline.

const FADE_MS = 600;
const STROKE_ALPHA = 0.5;
const MASK_ALPHA = 0.45;

/** Draws a polyline of fractions of the picture with a round brush of `diameter`, on a canvas `size` wide. */
function tracePath(context, points, diameter, size) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = diameter * size;
  context.beginPath();
  context.moveTo(points[0].x * size, points[0].y * size);
  for (const point of points) context.lineTo(point.x * size + 0.01, point.y * size);
  context.stroke();
}

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

function makeOverlay(canvas) {
  const context = canvas.getContext("2d");
  const sheet = document.createElement("canvas");
  const ink = sheet.getContext("2d");
  let strokes = []; // {points, diameter, colour, number, fadeFrom}; number: the request that carries it
  let shown = null; // {image} a mask to look at
  let cursor = null; // {x, y, diameter, busy}
  let scheduled = false;

  function schedule() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(draw);
  }

  function lay(some, alpha) {
    if (!some.length) return;
    ink.clearRect(0, 0, sheet.width, sheet.height);
    for (const stroke of some) {
      ink.strokeStyle = stroke.colour;
      tracePath(ink, stroke.points, stroke.diameter, sheet.width);
    }
    context.globalAlpha = alpha;
    context.drawImage(sheet, 0, 0);
    context.globalAlpha = 1;
  }

  function drawCursor(size) {
    const pixel = size / canvas.clientWidth;
    const radius = Math.max(2 * pixel, (cursor.diameter * size) / 2);
    for (const [width, colour] of [[3, "rgba(0,0,0,.45)"], [1.5, "#fff"]]) {
      context.lineWidth = width * pixel;
      context.strokeStyle = colour;
      context.setLineDash(cursor.dashed ? [5 * pixel, 4 * pixel] : []);
      context.beginPath();
      context.arc(cursor.x * size, cursor.y * size, radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  function draw(now) {
    scheduled = false;
    const size = canvas.width;
    context.clearRect(0, 0, size, size);
    if (shown) {
      context.globalAlpha = MASK_ALPHA;
      context.imageSmoothingQuality = "high";
      context.drawImage(shown, 0, 0, size, size);
      context.globalAlpha = 1;
    }
    strokes = strokes.filter((stroke) => stroke.fadeFrom === null || now - stroke.fadeFrom < FADE_MS);
    const fading = strokes.filter((stroke) => stroke.fadeFrom !== null);
    for (const start of new Set(fading.map((stroke) => stroke.fadeFrom))) {
      const left = 1 - Math.max(0, now - start) / FADE_MS;
      lay(fading.filter((stroke) => stroke.fadeFrom === start), STROKE_ALPHA * left * left);
    }
    lay(strokes.filter((stroke) => stroke.fadeFrom === null), STROKE_ALPHA);
    if (cursor) drawCursor(size);
    if (fading.length) schedule();
  }

  new ResizeObserver(() => {
    const size = Math.min(1536, Math.round(canvas.clientWidth * devicePixelRatio)) || 1;
    canvas.width = canvas.height = sheet.width = sheet.height = size;
    schedule();
  }).observe(canvas);

  return {
    begin(point, diameter, colour) {
      strokes.push({ points: [point], diameter, colour, number: null, fadeFrom: null });
      schedule();
    },
    extend(points) {
      strokes.at(-1)?.points.push(...points);
      schedule();
    },
    /** What has been stroked so far travels with request `number`; `going` if the pointer is still down. */
    seal(number, going) {
      const last = strokes.at(-1);
      for (const stroke of strokes) stroke.number ??= number;
      if (going && last) strokes.push({ ...last, points: last.points.slice(-1), number: null, fadeFrom: null });
    },
    /** The picture of request `number` is there: what it carried can fade. */
    acknowledge(number) {
      const now = performance.now();
      for (const stroke of strokes) {
        if (stroke.number !== null && stroke.number <= number) stroke.fadeFrom ??= now;
      }
      schedule();
    },
    /** Forgets the strokes that never reached the server: the stroke was cancelled. */
    forget() {
      strokes = strokes.filter((stroke) => stroke.number !== null);
      schedule();
    },
    showMask(mask, colour) {
      shown = mask && maskImage(mask, colour);
      schedule();
    },
    moveCursor(next) {
      cursor = next;
      schedule();
    },
  };
}
