// Wide tables and pictures on a narrow screen. Without this file they are as the style sheet leaves them: they scroll.

// A table of prose is read row by row on a phone: each cell says its column. The roles stay when the layout is no table's.
function stack(table) {
  const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
  if (heads.length < 3 || ![...table.rows].some((row) => row.textContent.length > 100)) return; // short rows scroll
  table.classList.add("apo-stacks");
  table.setAttribute("role", "table");
  for (const part of table.querySelectorAll("thead, tbody")) part.setAttribute("role", "rowgroup");
  for (const row of table.rows) {
    row.setAttribute("role", "row");
    for (const cell of row.cells) {
      cell.setAttribute("role", cell.tagName === "TH" ? "columnheader" : "cell");
      cell.dataset.column = heads[cell.cellIndex];
    }
  }
}

// What scrolls sideways can be reached and scrolled from the keyboard, and says what it is.
function sayWhatScrolls(box) {
  const scrolls = box.scrollWidth > box.clientWidth + 1;
  const label = box.querySelector("img") ? "Picture, wider than the screen" : "Table, wider than the screen";
  for (const [key, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": label })) {
    if (scrolls) box.setAttribute(key, value);
    else box.removeAttribute(key);
  }
}

document.querySelectorAll("article table:not(.dataframe)").forEach(stack);
for (const picture of document.querySelectorAll(".apo-question img")) {
  const box = document.createElement("div");
  box.className = "apo-picture";
  box.style.setProperty("--wide", `${picture.getAttribute("width")}px`);
  picture.replaceWith(box);
  box.append(picture);
}
// A strip is whole at first, so that one sees all that moves; on a phone a button makes its picture large.
for (const stage of document.querySelectorAll(".apo-strip-stage")) {
  const large = document.createElement("button");
  large.type = "button";
  large.className = "apo-commit apo-enlarge";
  large.textContent = "Larger picture";
  large.setAttribute("aria-pressed", "false");
  large.addEventListener("click", () => large.setAttribute("aria-pressed", String(stage.classList.toggle("apo-large"))));
  stage.after(large);
}
const sizes = new ResizeObserver((seen) => seen.forEach(({ target }) => sayWhatScrolls(target)));
document.querySelectorAll(".apo-picture, .apo-strip-stage, .pst-scrollable-table-container").forEach((box) => sizes.observe(box));
