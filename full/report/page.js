"use strict";
// The viewer's filters and pages. Everything is in the document already; this only hides what does not match.
(() => {
  const PER_PAGE = 5; // prompts
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const at = (id) => document.getElementById(id);
  const groups = [...viewer.querySelectorAll(".group")].map((element) => {
    const shared = [...element.querySelectorAll(".problem, .answer .text")].map((part) => part.textContent);
    const samples = [...element.querySelectorAll(".sample")].map((sample) => ({
      element: sample,
      solved: sample.dataset.solved === "1",
      truncated: sample.dataset.truncated === "1",
      text: [...shared, sample.querySelector(".completion").textContent].join("\n").toLowerCase(),
    }));
    return { element, samples, step: Number(element.dataset.step) };
  });
  const kinds = {
    all: () => true,
    solved: (sample) => sample.solved,
    unsolved: (sample) => !sample.solved,
    truncated: (sample) => sample.truncated,
  };
  let found = [];
  let page = 0;

  function filter() {
    const wanted = kinds[document.querySelector("input[name=show]:checked").value];
    const text = at("text").value.toLowerCase();
    const from = at("from").value === "" ? -Infinity : Number(at("from").value);
    const to = at("to").value === "" ? Infinity : Number(at("to").value);
    let count = 0;
    found = groups.filter((group) => {
      let matches = 0;
      for (const sample of group.samples) {
        const match = group.step >= from && group.step <= to && wanted(sample) && sample.text.includes(text);
        sample.element.hidden = !match;
        matches += match;
      }
      count += matches;
      return matches > 0;
    });
    page = 0;
    const prompts = `${found.length} prompt${found.length === 1 ? "" : "s"}`;
    at("status").textContent = count
      ? `${count} completion${count === 1 ? "" : "s"} of ${prompts} match.`
      : "No completion matches: show all, or clear the text and the steps.";
    show();
  }

  function show() {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    const visible = new Set(found.slice(page * PER_PAGE, (page + 1) * PER_PAGE));
    for (const group of groups) group.element.hidden = !visible.has(group);
    for (const box of viewer.querySelectorAll(".completion")) { // what scrolls must be reachable by keyboard
      box.tabIndex = box.scrollHeight > box.clientHeight ? 0 : -1;
    }
    at("pager").hidden = pages === 1;
    at("where").textContent = `Page ${page + 1} of ${pages}`;
    at("back").disabled = page === 0;
    at("next").disabled = page === pages - 1;
  }

  function turn(by) {
    page += by;
    show();
    at("completions").scrollIntoView();
  }

  at("filters").hidden = false;
  at("filters").addEventListener("input", filter);
  at("back").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  filter();
})();
