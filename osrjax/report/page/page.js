"use strict";
for (const button of document.querySelectorAll("table.sorted thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const key = (row) => {
      const cell = row.children[head.cellIndex];
      return head.classList.contains("number") ? parseFloat(cell.dataset.value) : cell.textContent;
    };
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (typeof x === "string") return (rising ? 1 : -1) * x.localeCompare(y, undefined, { numeric: true });
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // what has no number stays below
      return (rising ? 1 : -1) * (x - y);
    };
    body.append(...Array.from(body.rows).sort(order));
  });
}
// A figure is drawn when it comes near, so that the page is there at once; all of them before it is printed.
const waiting = new Map();
for (const item of JSON.parse(document.getElementById("drawings").textContent)) {
  waiting.set(document.getElementById(item.target_id), item);
}
const draw = (place) => {
  const item = waiting.get(place);
  waiting.delete(place);
  observer.unobserve(place);
  return item && Bokeh.embed.embed_item(item);
};
const observer = new IntersectionObserver(
  async (seen) => {
    await Promise.all(seen.filter((one) => one.isIntersecting).map((one) => draw(one.target)));
    document.documentElement.dataset.ready ??= String(performance.now());
  },
  { rootMargin: "400px" },
);
for (const place of waiting.keys()) observer.observe(place);
window.addEventListener("beforeprint", () => [...waiting.keys()].forEach(draw));
if (!waiting.size) document.documentElement.dataset.ready = String(performance.now());
