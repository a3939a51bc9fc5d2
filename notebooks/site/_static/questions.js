// A lesson's predictions without a kernel: choose, commit, compare. Answers stay in this browser, and can be saved to a file.

const KEPT = "apo_edu.predictions";

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? [];
  } catch {
    return []; // no storage here, or not ours: ask again each time
  }
}

function keep(rows) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(rows));
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
  }

  function ask() {
    const picture = [...verdict.children].filter((part) => part.matches("img, details") || part.nextElementSibling?.matches("img"));
    answers.append(...picture);
    verdict.replaceChildren();
    delete verdict.dataset.right;
    control.lock(false);
    button.hidden = false;
    again.hidden = true;
    answers.hidden = true;
    answers.open = false;
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

document.querySelectorAll(".apo-question").forEach(enliven);
if (document.querySelector(".apo-question")) {
  document.querySelector("article")?.append(element("p", { class: "apo-kept" }));
  count();
}
