// The palette: concepts in groups, found as you type, with favourites, recent brushes and, folded, the weak ones.

/** How well a concept answers a query: 0 not at all; `via` is the synonym that did. */
function matchOf(concept, query) {
  const grade = (word) => {
    const text = word.toLowerCase();
    if (text === query) return 4;
    if (text.startsWith(query)) return 3;
    return text.split(/[\s-]+/).some((part) => part.startsWith(query)) ? 2 : text.includes(query) ? 1 : 0;
  };
  let best = { score: grade(concept.name) * 2 + 1, via: "" };
  if (best.score === 1) best = { score: 0, via: "" };
  for (const synonym of concept.synonyms) {
    const score = grade(synonym) * 2;
    if (score > best.score) best = { score, via: synonym };
  }
  return best;
}

/** `onPick(brush)` takes a brush in hand; `onMap(query)` looks for features instead. */
function makePalette({ root, store, icons, iconsARow, atlas, onPick, onMap }) {
  const list = root.querySelector(".fb-concepts");
  const none = root.querySelector(".fb-none");
  const search = root.querySelector("input");
  const rows = Math.ceil(store.concepts.filter((concept) => concept.icon !== null).length / iconsARow);
  const more = root.querySelector("[data-do=find-on-map]");
  const shelf = makeShelf();
  let weakOpen = false;
  let pointed = null; // the brush of the tile under the pointer or with the focus
  let onPoint = () => {};

  function dress(element, name) {
    const concept = store.concepts.find((each) => each.name === name);
    element.style.setProperty("--hue", hueOf({ concept: name }, store.concepts));
    if (!icons || concept?.icon == null) {
      element.textContent = titled(name ?? "?").charAt(0);
      return;
    }
    const place = (index, count) => (count > 1 ? (100 * index) / (count - 1) : 0);
    element.style.backgroundImage = `url("${icons}")`;
    element.style.backgroundSize = `${100 * iconsARow}% ${100 * rows}%`;
    const column = place(concept.icon % iconsARow, iconsARow);
    element.style.backgroundPosition = `${column}% ${place(Math.floor(concept.icon / iconsARow), rows)}%`;
  }

  function iconOf(brush) {
    if (brush.feature !== undefined) return atlas.iconOf(brush);
    const icon = document.createElement("span");
    icon.className = "fb-pic";
    icon.setAttribute("aria-hidden", "true");
    dress(icon, brush.concept);
    return icon;
  }

  /** A brush of a model that was here before is not offered. */
  const isKnown = (brush) =>
    brush.concept === undefined
      ? atlas.blocks.size === 0 || brush.feature < (atlas.blocks.get(brush.block)?.count ?? 0)
      : store.concepts.some((concept) => concept.name === brush.concept);

  function tileOf(brush) {
    const concept = store.concepts.find((each) => each.name === brush.concept);
    const tile = document.createElement("button");
    tile.type = "button";
    tile.className = "fb-tile";
    tile.setAttribute("role", "option");
    tile.brush = brush;
    const label = document.createElement("span");
    label.className = "fb-label";
    if (concept) {
      tile.dataset.concept = concept.name;
      label.textContent = titled(concept.name);
      tile.title = [titled(concept.name), ...concept.synonyms].join(", ");
      if (concept.weak) {
        tile.classList.add("fb-weak-tile");
        tile.title = `${tile.title}. ${TEXT.weak_title}`;
      }
    } else {
      tile.dataset.feature = `${brush.block}:${brush.feature}`;
      const known = atlas.labelOf(brush);
      label.textContent = known ? `${titled(known)} ${brush.feature}` : brushName(brush);
      tile.title = `${label.textContent}, ${brush.block}`;
    }
    tile.append(iconOf(brush), label);
    tile.addEventListener("click", () => pick(brush));
    tile.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point(brush));
    tile.addEventListener("pointerleave", () => point(null));
    tile.addEventListener("focus", () => tile.matches(":focus-visible") && point(brush));
    tile.addEventListener("blur", () => point(null));
    return tile;
  }

  function point(brush) {
    pointed = brush;
    onPoint();
  }

  function pick(brush) {
    onPick(brush);
    refresh();
  }

  function section(title, brushes) {
    const group = document.createElement("div");
    group.className = "fb-group";
    if (title) {
      const heading = document.createElement("h3");
      heading.textContent = titled(title);
      group.append(heading);
    }
    const grid = document.createElement("div");
    grid.className = "fb-grid";
    grid.setAttribute("role", "listbox");
    grid.setAttribute("aria-label", title ? titled(title) : TEXT.palette);
    grid.append(...brushes.map(tileOf));
    group.append(grid);
    return group;
  }

  /** The folded part at the end: what the model seldom paints. */
  function weakSection(brushes) {
    const group = section(TEXT.weak, brushes);
    const [heading, grid] = group.children;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "fb-fold";
    button.title = TEXT.weak_title;
    button.textContent = `${TEXT.weak} (${brushes.length})`;
    const fold = () => {
      grid.hidden = !weakOpen;
      button.setAttribute("aria-expanded", String(weakOpen));
    };
    button.addEventListener("click", () => {
      weakOpen = !weakOpen;
      fold();
      refresh();
    });
    heading.replaceChildren(button);
    fold();
    return group;
  }

  const brushesOf = (concepts) => concepts.map((concept) => ({ concept: concept.name }));

  function everything() {
    const strong = store.concepts.filter((concept) => !concept.weak);
    const weak = store.concepts.filter((concept) => concept.weak);
    const groups = [...new Set(strong.map((concept) => concept.group))];
    const shelves = [[TEXT.favourites, shelf.favourites], [TEXT.recent, shelf.recent]];
    return [
      ...shelves.map(([title, brushes]) => [title, brushes.filter(isKnown)]).filter(([, brushes]) => brushes.length)
        .map(([title, brushes]) => section(title, brushes)),
      ...groups.map((group) => section(group, brushesOf(strong.filter((concept) => concept.group === group)))),
      ...(weak.length ? [weakSection(brushesOf(weak))] : []),
    ];
  }

  function arrange() {
    const query = search.value.trim().toLowerCase();
    if (!query) {
      list.replaceChildren(...everything());
    } else {
      const found = store.concepts
        .map((concept) => ({ concept, ...matchOf(concept, query) }))
        .filter((match) => match.score > 0)
        .sort((a, b) => a.concept.weak - b.concept.weak || b.score - a.score);
      list.replaceChildren(...(found.length ? [section("", brushesOf(found.map((match) => match.concept)))] : []));
      none.querySelector("p").textContent = TEXT.search_none.replace("{query}", search.value.trim());
      more.textContent = TEXT.search_map.replace("{query}", search.value.trim());
    }
    more.hidden = !query;
    none.hidden = list.childElementCount > 0;
    point(null);
    list.scrollTop = list.scrollLeft = 0;
    refresh();
  }

  /** Puts the shelves in order without moving what is under the pointer. */
  function rearrange() {
    if (search.value.trim()) return;
    const { scrollTop, scrollLeft, scrollHeight, scrollWidth } = list;
    list.replaceChildren(...everything());
    refresh();
    list.scrollTop = scrollTop + list.scrollHeight - scrollHeight;
    list.scrollLeft = scrollLeft + list.scrollWidth - scrollWidth;
  }

  /** Marks the brush in hand, and lets Tab reach one tile only: arrows go on from there. */
  function refresh() {
    const shown = [...list.querySelectorAll(".fb-tile")];
    const isHeld = (tile) => sameBrush(tile.brush, store.tool.brush);
    for (const tile of shown) tile.setAttribute("aria-selected", String(isHeld(tile)));
    const visible = shown.filter((tile) => tile.parentElement.hidden === false);
    const stop = visible.find(isHeld) ?? visible[0];
    for (const tile of shown) tile.tabIndex = tile === stop ? 0 : -1;
  }

  list.addEventListener("keydown", (event) => {
    const shown = [...list.querySelectorAll(".fb-grid:not([hidden]) .fb-tile")];
    const at = shown.indexOf(document.activeElement);
    if (at < 0) return;
    const top = shown[at].getBoundingClientRect();
    const rowStep = (sign) => {
      const others = shown.filter((tile) => sign * (tile.getBoundingClientRect().top - top.top) > 4);
      const score = (tile) => {
        const box = tile.getBoundingClientRect();
        return 10 * Math.abs(box.top - top.top) + Math.abs(box.left - top.left);
      };
      return others.sort((a, b) => score(a) - score(b))[0];
    };
    const next = {
      ArrowRight: () => shown[at + 1],
      ArrowLeft: () => shown[at - 1],
      ArrowDown: () => rowStep(1),
      ArrowUp: () => rowStep(-1),
      Home: () => shown[0],
      End: () => shown.at(-1),
    }[event.key];
    if (!next) return;
    event.preventDefault();
    next()?.focus();
  });

  search.addEventListener("input", arrange);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && search.value) {
      event.stopPropagation();
      search.value = "";
      arrange();
    }
    if (event.key !== "Enter") return;
    const first = list.querySelector(".fb-tile");
    if (first) pick(first.brush);
  });
  none.querySelector("button").addEventListener("click", () => {
    search.value = "";
    arrange();
    search.focus();
  });

  more.addEventListener("click", () => onMap(search.value.trim()));

  arrange();
  store.listen(refresh);
  return {
    pick: (name) => pick({ concept: name }),
    iconOf,
    search,
    isFavourite: shelf.isFavourite,
    get pointed() {
      return pointed;
    },
    /** `listener` is called whenever another tile is pointed at. */
    onPoint(listener) {
      onPoint = listener;
    },
    toggleFavourite(brush) {
      shelf.toggle(brush);
      rearrange();
    },
    /** A brush was taken in hand, here or elsewhere. */
    remember(brush) {
      if (shelf.remember(brush)) rearrange();
    },
    rearrange,
  };
}
