// The frame around the region that the move tool holds: its handles scale it, its inside moves it.

const HANDLES = [[-1, -1], [0, -1], [1, -1], [1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0]];
const HANDLE_PX = 9;
const REACH_PX = { mouse: 9, pen: 12, touch: 20 };
const FACTOR_MIN = 0.05;

function makeFrame(svg) {
  const group = svgElement("g", "fb-frame", svg);
  const outline = svgElement("rect", "", group);
  const handles = HANDLES.map(() => svgElement("rect", "fb-handle", group));
  let box = null;
  show(null, 1);

  const spot = ([x0, y0, x1, y1], [ax, ay]) => ({ x: (x0 + x1 + ax * (x1 - x0)) / 2, y: (y0 + y1 + ay * (y1 - y0)) / 2 });

  function place(rect, x, y, width, height) {
    for (const [name, value] of Object.entries({ x, y, width, height })) rect.setAttribute(name, (value * SPAN).toFixed(1));
  }

  /** Around a mask, or nowhere; `across` is how wide the picture is on the screen, in pixels. */
  function show(mask, across) {
    box = mask && boxOf(mask);
    group.style.display = box ? "" : "none";
    if (!box) return;
    place(outline, box[0], box[1], box[2] - box[0], box[3] - box[1]);
    const side = HANDLE_PX / across;
    HANDLES.forEach((handle, i) => {
      const { x, y } = spot(box, handle);
      place(handles[i], x - side / 2, y - side / 2, side, side);
    });
  }

  /** The handle at a place of the picture: [-1 | 0 | 1, -1 | 0 | 1], or null. */
  function at(point, pointerType, across) {
    if (!box) return null;
    const reach = (REACH_PX[pointerType] ?? REACH_PX.mouse) / across;
    const found = HANDLES.map((handle) => ({ handle, far: Math.hypot(spot(box, handle).x - point.x, spot(box, handle).y - point.y) }));
    const nearest = found.reduce((best, one) => (one.far < best.far ? one : best));
    return nearest.far <= reach ? nearest.handle : null;
  }

  return {
    show,
    at,
    /** What dragging a handle of the box from one place to another does to a mask: see `placedMask`. */
    placing(start, [ax, ay], from, to) {
      const [x0, y0, x1, y1] = start;
      const factor = (side, moved, length) => {
        if (!side) return 1;
        const made = 1 + (side * moved) / length;
        return Math.abs(made) < FACTOR_MIN ? (made < 0 ? -FACTOR_MIN : FACTOR_MIN) : made;
      };
      let scale = [factor(ax, to.x - from.x, x1 - x0), factor(ay, to.y - from.y, y1 - y0)];
      if (to.square && ax && ay) scale = scale.fill(scale.reduce((a, b) => (Math.abs(a - 1) > Math.abs(b - 1) ? a : b)));
      const { x, y } = spot(start, [-ax, -ay]);
      return { scale, about: [x, y] };
    },
    /** How the pointer looks over a handle. */
    cursorOf([ax, ay]) {
      return ax && ay ? (ax === ay ? "nwse-resize" : "nesw-resize") : ax ? "ew-resize" : "ns-resize";
    },
  };
}
