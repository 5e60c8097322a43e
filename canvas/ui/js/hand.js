// The brush that is pointed at in the palette, or else the one in hand: large, with what it is good at.

function makeHand({ root, store, atlas, palette }) {
  const find = (selector) => root.querySelector(selector);
  const star = find("[data-do=star]");
  let shown = "";

  function refresh() {
    const brush = palette.pointed ?? store.tool.brush;
    star.hidden = !brush;
    if (!brush) {
      // its room is always taken: what is pointed at must not move from under the pointer
      find(".fb-hand-icon").replaceChildren();
      for (const line of ["b", "i"]) find(line).textContent = "";
      find(".fb-acts").textContent = TEXT.hand_empty;
      find(".fb-also").textContent = "";
      shown = "";
      return;
    }
    const kept = palette.isFavourite(brush);
    star.setAttribute("aria-pressed", String(kept));
    star.title = kept ? TEXT.unstar : TEXT.star;
    star.setAttribute("aria-label", star.title);
    const label = brush.concept === undefined ? atlas.labelOf(brush) : "";
    const key = JSON.stringify([brush, label]);
    if (key === shown) return;
    shown = key;
    find(".fb-hand-icon").replaceChildren(palette.iconOf(brush));
    const concept = store.concepts.find((each) => each.name === brush.concept);
    const score = concept?.score ?? atlas.scoreOf(brush);
    const text = concept?.weak ? TEXT.hand_weak : concept ? TEXT.hand : TEXT.feature_label;
    find("b").textContent = concept ? titled(concept.name) : label ? `${titled(label)} ${brush.feature}` : brushName(brush);
    find("i").textContent = text.replace("{percent}", Math.round(100 * score)).replace("{words}", scoreWords(score));
    find(".fb-acts").textContent = TEXT.hand_block.replace("{block}", concept?.block ?? brush.block);
    const words = concept?.synonyms.join(", ");
    find(".fb-also").textContent = words ? TEXT.also.replace("{words}", words) : "";
  }

  /** Keeps the shown brush among the favourites, or no longer. */
  function toggle() {
    const brush = palette.pointed ?? store.tool.brush;
    if (brush) palette.toggleFavourite(brush);
    refresh();
  }

  star.addEventListener("click", toggle);
  palette.onPoint(refresh);
  store.listen(refresh);
  refresh();
  return { star: toggle };
}
