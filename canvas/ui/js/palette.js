// The palette: concepts in groups, found as you type.

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

function makePalette({ root, store, icons, iconsARow, onPick }) {
  const list = root.querySelector(".fb-concepts");
  const none = root.querySelector(".fb-none");
  const search = root.querySelector("input");
  const rows = Math.ceil(store.concepts.filter((concept) => concept.icon !== null).length / iconsARow);
  const tiles = new Map();

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

  function iconOf(name) {
    const icon = document.createElement("span");
    icon.className = "fb-pic";
    icon.setAttribute("aria-hidden", "true");
    dress(icon, name);
    return icon;
  }

  function tileOf(concept) {
    const tile = document.createElement("button");
    tile.type = "button";
    tile.className = "fb-tile";
    tile.setAttribute("role", "option");
    tile.dataset.concept = concept.name;
    tile.title = [titled(concept.name), ...concept.synonyms].join(", ");
    const label = document.createElement("span");
    label.className = "fb-label";
    label.textContent = titled(concept.name);
    tile.append(iconOf(concept.name), label);
    tile.addEventListener("click", () => pick(concept.name));
    return tile;
  }

  function pick(name) {
    onPick({ concept: name });
    refresh();
  }

  function section(title, concepts) {
    const group = document.createElement("div");
    group.className = "fb-group";
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", title);
    if (title) {
      const heading = document.createElement("h3");
      heading.textContent = titled(title);
      group.append(heading);
    }
    const grid = document.createElement("div");
    grid.className = "fb-grid";
    grid.append(...concepts.map((concept) => tiles.get(concept.name)));
    group.append(grid);
    return group;
  }

  function arrange() {
    const query = search.value.trim().toLowerCase();
    if (!query) {
      const groups = [...new Set(store.concepts.map((concept) => concept.group))];
      const members = (group) => store.concepts.filter((concept) => concept.group === group);
      list.replaceChildren(...groups.map((group) => section(group, members(group))));
    } else {
      const found = store.concepts
        .map((concept) => ({ concept, ...matchOf(concept, query) }))
        .filter((match) => match.score > 0)
        .sort((a, b) => b.score - a.score);
      list.replaceChildren(...(found.length ? [section("", found.map((match) => match.concept))] : []));
      none.querySelector("p").textContent = TEXT.search_none.replace("{query}", search.value.trim());
    }
    none.hidden = list.childElementCount > 0;
    list.scrollTop = list.scrollLeft = 0;
    refresh();
  }

  /** Marks the brush in hand, and lets Tab reach one tile only: arrows go on from there. */
  function refresh() {
    const shown = [...list.querySelectorAll(".fb-tile")];
    const held = store.tool.brush?.concept;
    for (const tile of shown) tile.setAttribute("aria-selected", String(tile.dataset.concept === held));
    const stop = shown.find((tile) => tile.dataset.concept === held) ?? shown[0];
    for (const tile of shown) tile.tabIndex = tile === stop ? 0 : -1;
  }

  list.addEventListener("keydown", (event) => {
    const shown = [...list.querySelectorAll(".fb-tile")];
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
    if (first) pick(first.dataset.concept);
  });
  none.querySelector("button").addEventListener("click", () => {
    search.value = "";
    arrange();
    search.focus();
  });

  for (const concept of store.concepts) tiles.set(concept.name, tileOf(concept));
  arrange();
  store.listen(refresh);
  return { pick, iconOf, search };
}
