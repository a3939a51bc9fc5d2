// A lesson's predictions without a kernel: choose, commit, compare. Answers stay in this browser, and can be saved to a file.

// What follows a question in its section tells the answer: it is folded until one commits, or skips.

const KEPT = "apo_edu.predictions";
const PICTURE = "img, .apo-picture";
const SKIPPED = "apo_edu.skipped"; // names of questions whose answers the reader wanted to see without a prediction

function kept(where = KEPT) {
  try {
    return JSON.parse(localStorage.getItem(where)) ?? [];
  } catch {
    return []; // no storage here, or not ours: ask again each time
  }
}

function keep(rows, where = KEPT) {
  try {
    localStorage.setItem(where, JSON.stringify(rows));
  } catch {
    // The prediction counts on this page; it is not kept.
  }
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function choices(question, list, group) {
  const inputs = [...list.children].map((item) => {
    const input = element("input", { type: "radio", name: group, value: item.textContent });
    item.replaceChildren(element("label", {}, input, element("span", {}, item.textContent)));
    return input;
  });
  list.setAttribute("role", "radiogroup");
  list.setAttribute("aria-label", "Choices");
  for (const item of list.children) item.setAttribute("role", "none");
  return {
    read: () => inputs.find((input) => input.checked)?.value ?? null,
    write: (answer) => inputs.forEach((input) => (input.checked = input.value === answer)),
    lock: (locked) => inputs.forEach((input) => (input.disabled = locked)),
    judge: (answer) => (answer === question.dataset.answer ? "" : answer),
    right: question.dataset.answer,
  };
}

function slider(question, place) {
  const { low, high, step, label, answer, tolerance } = question.dataset;
  const digits = (step.split(".")[1] ?? "").length;
  const input = element("input", { type: "range", min: low, max: high, step, value: low });
  const shown = element("output", { "aria-hidden": "true" }, "\u2013");
  let moved = false; // the place where it starts is nobody's answer
  input.addEventListener("input", () => {
    moved = true;
    shown.textContent = input.valueAsNumber.toFixed(digits);
  });
  place.append(element("label", {}, `${label} `, input, " ", shown));
  return {
    read: () => (moved ? input.valueAsNumber : null),
    write: (value) => {
      input.value = value;
      shown.textContent = Number(value).toFixed(digits);
    },
    lock: (locked) => (input.disabled = locked),
    judge: (value) => {
      const off = value - Number(answer);
      return Math.abs(off) <= Number(tolerance) + 1e-9 ? "" : off < 0 ? "low" : "high";
    },
    right: "right",
  };
}

function enliven(question, number) {
  const answers = question.querySelector("details");
  const list = question.querySelector(":scope > ul");
  const control = list ? choices(question, list, `apo-question-${number}`) : slider(question, question.querySelector("p:last-of-type"));
  const button = element("button", { type: "button", class: "apo-commit" }, "Commit");
  const again = element("button", { type: "button", class: "apo-commit" }, "Ask me again");
  const verdict = element("div", { role: "status", class: "apo-verdict" });
  const why = (key) => answers.querySelector(`:scope > p[data-choice="${CSS.escape(key)}"]`).cloneNode(true);
  answers.before(button, again, verdict);
  answers.querySelector("summary").textContent = "All answers explained";

  function show(answer) {
    const wrong = control.judge(answer);
    const said = typeof answer === "number" ? answer : `"${answer}"`;
    const words = wrong ? `\u2717 Not so: the answer is ${question.dataset.answer}.` : "\u2713 Right.";
    const parts = [element("p", {}, element("strong", {}, words), ` You said: ${said}.`)];
    if (wrong) parts.push(why(wrong));
    parts.push(why(control.right));
    // The picture and its words belong to the result; they move out of the fold-out and back.
    const picture = [...answers.children].filter((part) => !part.matches("summary, p[data-choice]"));
    verdict.replaceChildren(...parts, ...picture);
    verdict.dataset.right = String(!wrong);
    control.lock(true);
    button.hidden = true;
    again.hidden = false;
    answers.hidden = false;
    question.dispatchEvent(new Event("apo-asked"));
  }

  function ask() {
    const picture = [...verdict.children].filter((part) => part.matches(`${PICTURE}, details`) || part.nextElementSibling?.matches(PICTURE));
    answers.append(...picture);
    verdict.replaceChildren();
    delete verdict.dataset.right;
    control.lock(false);
    button.hidden = false;
    again.hidden = true;
    answers.hidden = true;
    answers.open = false;
    question.dispatchEvent(new Event("apo-asked"));
  }

  button.addEventListener("click", () => {
    const answer = control.read();
    if (answer === null) {
      verdict.textContent = list ? "Choose an answer first." : "Move the slider first.";
      return;
    }
    show(answer);
    const row = { question: question.dataset.name, answer, right: !control.judge(answer), when: new Date().toISOString() };
    keep([...kept(), row]);
    count();
    again.focus();
  });
  again.addEventListener("click", () => {
    ask();
    (list?.querySelector("input") ?? question.querySelector("input")).focus();
  });
  ask();
  const before = kept().findLast((row) => row.question === question.dataset.name);
  if (before) {
    control.write(before.answer);
    show(before.answer);
  }
}

const gates = [];
const skipped = new Set(kept(SKIPPED));

// Questions that follow one another share a gate: all of them are asked before what comes next. Where a section ends with
// its questions, a cell of the next one that is tagged "answers" is folded with what follows it.
function guard(questions) {
  const last = questions.at(-1).closest(".cell");
  const next = last?.nextElementSibling ?? last?.closest("section").nextElementSibling?.querySelector(":scope > .tag_answers");
  if (!next) return;
  const rest = element("div", { class: "apo-rest", id: `apo-rest-${gates.length}` });
  const gate = element("div", { class: "apo-gate", role: "group", "aria-label": "What follows" });
  const words = element("p");
  const toggle = element("button", { type: "button", class: "apo-commit", "aria-controls": rest.id });
  const all = element("button", { type: "button", class: "apo-commit" }, "Skip all on this page");
  gate.append(words, toggle, " ", all);
  next.before(gate, rest);
  while (rest.nextSibling) rest.append(rest.nextSibling);

  function renew() {
    const answered = questions.filter((question) => question.querySelector(".apo-verdict").dataset.right);
    const open = questions.every((question) => answered.includes(question) || skipped.has(question.dataset.name));
    gate.hidden = answered.length === questions.length;
    words.textContent = open
      ? "You skipped the prediction."
      : questions.length > 1 ? "What follows tells the answers: commit to yours first." : "What follows tells the answer: commit to yours first.";
    toggle.textContent = open ? "Fold what follows" : "Skip, and read on";
    toggle.setAttribute("aria-expanded", String(open));
    all.hidden = open || gates.length < 2;
    if (open) rest.removeAttribute("hidden");
    else rest.setAttribute("hidden", "until-found"); // a search in the page, or a link into it, opens it
  }

  function skip(yes) {
    for (const question of questions) skipped[yes ? "add" : "delete"](question.dataset.name);
    keep([...skipped], SKIPPED);
    renew();
  }

  toggle.addEventListener("click", () => skip(toggle.getAttribute("aria-expanded") === "false"));
  all.addEventListener("click", () => {
    for (const other of gates) other.skip(true);
    toggle.focus();
  });
  rest.addEventListener("beforematch", () => skip(true));
  for (const question of questions) question.addEventListener("apo-asked", renew);
  gates.push({ rest, renew, skip });
}

// A link into what is folded opens it.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const around = gates.filter(({ rest }) => rest.hasAttribute("hidden") && rest.contains(target));
  for (const { skip } of around) skip(true);
  if (around.length) target.scrollIntoView();
}

function count() {
  const place = document.querySelector(".apo-kept");
  if (!place) return;
  const rows = kept();
  const text = rows.map((row) => JSON.stringify(row)).join("\n") + "\n";
  const save = element("a", { download: "predictions.jsonl", href: `data:application/jsonl;charset=utf-8,${encodeURIComponent(text)}` }, "save them to a file");
  const forget = element("button", { type: "button" }, "forget them");
  forget.addEventListener("click", () => {
    if (!confirm("Forget your predictions in all lessons?")) return;
    keep([]);
    keep([], SKIPPED);
    location.reload();
  });
  const predictions = rows.length === 1 ? "1 prediction is" : `${rows.length} predictions are`;
  place.replaceChildren(`${predictions} kept in this browser, for all lessons, and nowhere else. `);
  if (rows.length) place.append("You can ", save, " (for your lecturer), or ", forget, ".");
}

// The theme's arrows in the side bar have no name of their own.
for (const arrow of document.querySelectorAll("summary:has(> .toctree-toggle)")) {
  const above = arrow.closest("li")?.querySelector("a")?.textContent ?? "";
  arrow.setAttribute("aria-label", `Pages under ${above}`.trim());
}

const questions = [...document.querySelectorAll(".apo-question")];
questions.forEach(enliven);
let together = [];
for (const question of questions) {
  together.push(question);
  if (!question.closest(".cell")?.nextElementSibling?.querySelector(".apo-question")) {
    guard(together);
    together = [];
  }
}
for (const { renew } of gates) renew();
unfold();
addEventListener("hashchange", unfold);
// Paper cannot be unfolded.
addEventListener("beforeprint", () => {
  const closed = [...document.querySelectorAll("article details:not([open])")];
  for (const details of closed) details.open = true;
  addEventListener("afterprint", () => closed.forEach((details) => (details.open = false)), { once: true });
});
if (document.querySelector(".apo-question")) {
  document.querySelector("article")?.append(element("p", { class: "apo-kept" }));
  count();
}
