// All layers' masks in their colours over the picture: as strong as a slider says, or fully while a key is held.

/** `colourOf(brush)` is a layer's colour. */
function makeMasks({ root, store, colourOf }) {
  const canvas = root.querySelector(".fb-masks");
  const range = root.querySelector("[data-set=masks]");
  const context = canvas.getContext("2d");
  let held = false;
  let drawn = null; // the layers that the canvas shows

  function refresh() {
    const share = held ? 1 : range.value / 100;
    canvas.hidden = share === 0;
    canvas.style.opacity = share;
    if (!share || drawn === store.painting.layers) return;
    drawn = store.painting.layers;
    context.fillStyle = getComputedStyle(canvas).backgroundColor;
    context.fillRect(0, 0, MASK, MASK);
    for (const layer of drawn) {
      if (!layer.visible) continue;
      context.globalAlpha = 0.8;
      context.drawImage(maskImage(layer.mask, colourOf(layer.brush)), 0, 0);
      context.globalAlpha = 1;
    }
  }

  range.addEventListener("input", () => {
    setRange(range, range.value);
    refresh();
  });
  setRange(range, 0);
  store.listen(refresh);
  refresh();

  return {
    /** Shows the masks alone until the key is let go. */
    hold() {
      if (held) return;
      held = true;
      refresh();
      const release = (event) => {
        if (event.type === "keyup" && event.key.toLowerCase() !== "o") return;
        for (const kind of ["keyup", "blur"]) window.removeEventListener(kind, release);
        held = false;
        refresh();
      };
      for (const kind of ["keyup", "blur"]) window.addEventListener(kind, release);
    },
  };
}
