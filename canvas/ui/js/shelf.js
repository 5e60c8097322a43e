// Brushes that the browser remembers: favourites, and those that were taken last.

const SHELF_RECENT = 6;

function makeShelf() {
  const read = (key) => {
    try {
      const kept = JSON.parse(localStorage.getItem(`featurebrush:${key}`) ?? "[]");
      return Array.isArray(kept) ? kept : [];
    } catch {
      return []; // a browser without storage, or one that holds something else
    }
  };
  const write = (key, brushes) => {
    try {
      localStorage.setItem(`featurebrush:${key}`, JSON.stringify(brushes));
    } catch {
      // a browser without storage forgets them at the reload
    }
  };
  const without = (brushes, brush) => brushes.filter((each) => !sameBrush(each, brush));
  const shelf = {
    favourites: read("favourites"),
    recent: read("recent"),
    isFavourite: (brush) => shelf.favourites.some((each) => sameBrush(each, brush)),
    toggle(brush) {
      const others = without(shelf.favourites, brush);
      shelf.favourites = others.length < shelf.favourites.length ? others : [...others, brush];
      write("favourites", shelf.favourites);
    },
    /** Says whether the list has changed: taking a recent brush again leaves it where it is. */
    remember(brush) {
      if (shelf.recent.some((each) => sameBrush(each, brush))) return false;
      shelf.recent = [brush, ...shelf.recent].slice(0, SHELF_RECENT);
      write("recent", shelf.recent);
      return true;
    },
  };
  return shelf;
}
