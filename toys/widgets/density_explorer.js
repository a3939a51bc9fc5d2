// Two modes with handles, the fits, and the optimiser's path. Nothing is computed here: for each move the kernel
// (toys/widgets/density_explorer.py) is asked, and what it answers is drawn.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = { width: 420, height: 300, x0: 34, x1: 412, y0: 12, y1: 222, row: 246, low: -6, high: 6, top: 1 };
const RIGHT = { width: 320, height: 300, x0: 46, x1: 312, y0: 12, y1: 252 };
const REST = 180; // ms without a move until the whole search is asked for
const SILENCE = 4000; // ms without an answer until the reader hears of it
const FADED = 6; // how many of the optimiser's steps are drawn behind the present one

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  set(made, attributes);
  made.append(...children);
  return made;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));
const numbers = (view) => new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const curve = (xs, ys) => "M" + xs.map((x, i) => `${x.toFixed(1)} ${ys[i].toFixed(1)}`).join("L");

function render({ model, el }) {
  const data = model.get("data");
  const grid = numbers(data.x);
  const { limits, landscape } = data;
  let setting = structuredClone(model.get("setting"));
  let answer = null;
  let step = 0; // of the path, the one shown
  let lastAsked = setting.id;
  let waiting = false; // one question at a time: a newer wish replaces the one that waits
  let stale = false;
  let resting = null;
  let silence = null;
  let playing = null;

  // Places: x and density on the left; mean and log sd on the right.
  const leftX = (x) => LEFT.x0 + ((x - LEFT.low) / (LEFT.high - LEFT.low)) * (LEFT.x1 - LEFT.x0);
  const leftY = (y) => LEFT.y1 - (y / LEFT.top) * (LEFT.y1 - LEFT.y0);
  const [lowLog, highLog] = landscape.sds.map(Math.log);
  const [lowMean, highMean] = landscape.means;
  const rightX = (mean) => RIGHT.x0 + ((mean - lowMean) / (highMean - lowMean)) * (RIGHT.x1 - RIGHT.x0);
  const rightY = (logSd) => RIGHT.y1 - ((logSd - lowLog) / (highLog - lowLog)) * (RIGHT.y1 - RIGHT.y0);
  const scale = [(RIGHT.x1 - RIGHT.x0) / (highMean - lowMean), (RIGHT.y0 - RIGHT.y1) / (highLog - lowLog)];
  const places = [...grid].map(leftX);

  const name = `apo-explorer-${Math.random().toString(36).slice(2)}`;
  const clip = (panel, which) =>
    shape("clipPath", { id: `${name}-${which}` },
      shape("rect", { x: panel.x0, y: panel.y0, width: panel.x1 - panel.x0, height: panel.y1 - panel.y0 }));
  const tick = (x, y, text, anchor = "middle") =>
    Object.assign(shape("text", { x, y, "text-anchor": anchor, class: "apo-explorer-tick" }), { textContent: text });

  // Left: densities, and below their axis the handles of the modes.
  const target = shape("path", { class: "apo-explorer-target" });
  const steps = Array.from({ length: FADED }, () => shape("path", { class: "apo-explorer-step" }));
  const fits = Array.from({ length: 6 }, () => shape("path", { class: "apo-explorer-fit" }));
  const now = shape("path", { class: "apo-explorer-step apo-explorer-now" });
  const bars = [0, 1].map(() => shape("line", { class: "apo-explorer-bar", y1: LEFT.row, y2: LEFT.row }));
  const stems = [0, 1].map(() => shape("line", { class: "apo-explorer-stem", y1: LEFT.row, y2: LEFT.y1 }));
  const densities = shape("svg", { viewBox: `0 0 ${LEFT.width} ${LEFT.height}`, role: "group", "aria-label": "Target and fits" },
    shape("defs", {}, clip(LEFT, "left")),
    shape("g", { "aria-hidden": "true" },
      ...[0, 0.25, 0.5, 0.75, 1].flatMap((y) => [
        shape("line", { class: "apo-explorer-grid", x1: LEFT.x0, x2: LEFT.x1, y1: leftY(y), y2: leftY(y) }),
        tick(LEFT.x0 - 5, leftY(y) + 4, y, "end"),
      ]),
      shape("g", { "clip-path": `url(#${name}-left)` }, target, ...steps, ...fits, now),
      shape("line", { class: "apo-explorer-axis", x1: LEFT.x0, x2: LEFT.x1, y1: LEFT.y1, y2: LEFT.y1 }),
      ...[-6, -4, -2, 0, 2, 4, 6].map((x) => tick(leftX(x), LEFT.height - 22, x)),
      tick((LEFT.x0 + LEFT.x1) / 2, LEFT.height - 5, "x (density above; drag the circles and diamonds)"),
      ...stems, ...bars));

  // Right: the landscape and the path.
  const bands = shape("g", {
    class: "apo-explorer-bands",
    transform: `translate(${rightX(0)} ${rightY(0)}) scale(${scale[0]} ${scale[1]})`,
  });
  const path = shape("path", { class: "apo-explorer-path" });
  const halo = shape("path", { class: "apo-explorer-path apo-explorer-halo" });
  const dots = shape("g");
  const marks = shape("g");
  const here = shape("circle", { class: "apo-explorer-here", r: 6 });
  const valley = shape("svg", { viewBox: `0 0 ${RIGHT.width} ${RIGHT.height}`, role: "group", "aria-label": "Landscape of D_alpha" },
    shape("defs", {}, clip(RIGHT, "right")),
    shape("g", { "aria-hidden": "true" },
      shape("g", { "clip-path": `url(#${name}-right)` }, bands, halo, path, dots, marks, here),
      shape("rect", { class: "apo-explorer-frame", x: RIGHT.x0, y: RIGHT.y0, width: RIGHT.x1 - RIGHT.x0, height: RIGHT.y1 - RIGHT.y0 }),
      ...[-4, -2, 0, 2, 4].map((mean) => tick(rightX(mean), RIGHT.height - 30, mean)),
      ...[0.3, 0.6, 1, 2, 3].map((sd) => tick(RIGHT.x0 - 5, rightY(Math.log(sd)) + 4, sd, "end")),
      tick((RIGHT.x0 + RIGHT.x1) / 2, RIGHT.height - 10, "mean of the Gaussian (dark: small D_alpha)"),
      shape("g", { transform: `translate(12 ${(RIGHT.y0 + RIGHT.y1) / 2}) rotate(-90)` }, tick(0, 0, "its standard deviation"))));

  // Handles: each is a slider to the keyboard and to a screen reader.
  function handle(panel, kind, label, { place, read, write, text, by, big, range, vertical }) {
    const grip = kind === "width" ? shape("path", { d: "M0 -8L8 0L0 8L-8 0Z" }) : shape("circle", { r: kind === "start" ? 7 : 9 });
    const made = shape("g", { class: `apo-explorer-handle apo-explorer-${kind}`, role: "slider", tabindex: 0,
      "aria-label": label, "aria-valuemin": range[0], "aria-valuemax": range[1], "data-lm-suppress-shortcuts": "true" },
      shape("circle", { class: "apo-explorer-reach", r: 20 }), shape("circle", { class: "apo-explorer-ring", r: 14 }), grip);
    made.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      made.focus();
      made.setPointerCapture(event.pointerId);
      const [x, y] = where(panel, event);
      const [at, up] = place();
      made.held = [x - at, y - up];
    });
    // A finger on a handle does not scroll the page: touch-action has no effect on a part of an SVG.
    made.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    made.addEventListener("pointermove", (event) => {
      if (!made.held) return;
      const [x, y] = where(panel, event);
      write(x - made.held[0], y - made.held[1]);
      moved();
    });
    const release = () => (made.held = null);
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) made.addEventListener(kind, release);
    made.addEventListener("keydown", (event) => {
      const signs = { ArrowRight: 1, ArrowUp: 1, PageUp: 1, ArrowLeft: -1, ArrowDown: -1, PageDown: -1 };
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key in signs) {
        const size = event.shiftKey || event.key.startsWith("Page") ? big : 1;
        by(signs[event.key] * size, vertical && /Up|Down/.test(event.key));
      } else if (event.key === "Home" || event.key === "End") {
        by(event.key === "Home" ? -Infinity : Infinity, false);
      } else return;
      event.preventDefault();
      moved();
    });
    made.follow = () => {
      const [x, y] = place();
      set(made, { transform: `translate(${x} ${y})`, "aria-valuenow": read(), "aria-valuetext": text() });
    };
    return made;
  }
  function where(panel, event) {
    const box = panel.getBoundingClientRect();
    const view = panel.viewBox.baseVal;
    return [((event.clientX - box.left) / box.width) * view.width, ((event.clientY - box.top) / box.height) * view.height];
  }
  const fromLeft = (x) => LEFT.low + ((x - LEFT.x0) / (LEFT.x1 - LEFT.x0)) * (LEFT.high - LEFT.low);
  const rounded = (value, places = 2) => Number(value.toFixed(places));
  const sides = ["left", "right"];
  const mean = (k, value) => {
    // The left mode stays left of the right one.
    const [low, high] = limits.means;
    setting.means[k] = rounded(clamp(value, k ? [setting.means[0], high] : [low, setting.means[1]]));
  };
  const width = (k, value) => (setting.sds[k] = rounded(clamp(value, limits.sds)));
  const outward = (k) => (k ? 1 : -1);
  const modes = [0, 1].map((k) =>
    handle(densities, "mode", `Place of the ${sides[k]} mode`, {
      place: () => [leftX(setting.means[k]), LEFT.row],
      read: () => setting.means[k],
      write: (x) => mean(k, fromLeft(x)),
      by: (sign) => mean(k, setting.means[k] + 0.1 * sign),
      text: () => `${setting.means[k].toFixed(2)}; the modes are ${(setting.means[1] - setting.means[0]).toFixed(2)} apart`,
      big: 5,
      range: limits.means,
    }));
  const widths = [0, 1].map((k) =>
    handle(densities, "width", `Standard deviation of the ${sides[k]} mode`, {
      place: () => [leftX(setting.means[k] + outward(k) * setting.sds[k]), LEFT.row],
      read: () => setting.sds[k],
      write: (x) => width(k, outward(k) * (fromLeft(x) - setting.means[k])),
      by: (sign) => width(k, setting.sds[k] + 0.05 * sign),
      text: () => setting.sds[k].toFixed(2),
      big: 4,
      range: limits.sds,
    }));
  const put = (atMean, logSd) => {
    setting.start = [rounded(clamp(atMean, landscape.means)), rounded(clamp(Math.exp(logSd), landscape.sds))];
    setting.placed = true;
  };
  const start = handle(valley, "start", "Where the optimiser starts: left and right move the mean, up and down the standard deviation", {
    place: () => [rightX(setting.start[0]), rightY(Math.log(setting.start[1]))],
    read: () => setting.start[0],
    write: (x, y) => put(lowMean + (x - RIGHT.x0) / scale[0], lowLog + (y - RIGHT.y1) / scale[1]),
    by: (sign, up) =>
      up ? put(setting.start[0], Math.log(setting.start[1]) + 0.1 * sign) : put(setting.start[0] + 0.1 * sign, Math.log(setting.start[1])),
    text: () => `mean ${setting.start[0].toFixed(2)}, standard deviation ${setting.start[1].toFixed(2)}`,
    big: 5,
    range: landscape.means,
    vertical: true,
  });
  densities.append(widths[0], widths[1], modes[0], modes[1]);
  valley.append(start);

  // Controls below.
  const slider = (label, low, high, stepBy, read, write, text, name = label) => {
    const input = node("input", { type: "range", min: low, max: high, step: stepBy, "aria-label": name, "data-lm-suppress-shortcuts": "true" });
    const shown = node("span", { class: "apo-explorer-value", "aria-hidden": "true" });
    input.addEventListener("input", () => {
      write(input.valueAsNumber);
      follow();
    });
    const follow = () => {
      input.value = read();
      input.setAttribute("aria-valuetext", text());
      shown.textContent = text();
    };
    const row = node("div", { class: "apo-explorer-row" }, node("label", {}, node("span", { class: "apo-explorer-label" }, label), input), shown);
    return { input, row, follow };
  };
  const order = slider("alpha", ...limits.alpha, 0.025, () => setting.alpha,
    (value) => { setting.alpha = rounded(value, 3); moved(); }, () => setting.alpha.toFixed(3));
  order.input.style.setProperty("--track", `linear-gradient(to right, ${data.colors.join(", ")})`);
  const share = slider("left mode's mass", ...limits.weight, 0.05, () => setting.weight,
    (value) => { setting.weight = rounded(value); moved(); }, () => `${Math.round(100 * setting.weight)} %`, "Share of the left mode");
  const walk = slider("optimiser's step", 0, 1, 1, () => step, (value) => { stop(); show(value); }, () => `${step} of ${count() - 1}`);
  const play = node("button", { type: "button", class: "apo-explorer-play", "data-lm-suppress-shortcuts": "true" });
  walk.row.append(play);
  const follow = node("input", { type: "checkbox", "data-lm-suppress-shortcuts": "true" });
  follow.addEventListener("change", () => {
    setting.follow = follow.checked;
    setting.placed = false;
    moved();
  });
  const said = node("output", { "aria-live": "polite" });
  const figure = node("figure", { "aria-label": data.alt },
    node("div", { class: "apo-explorer-panels" }, densities, valley),
    node("div", { class: "apo-explorer-said" }, said),
    order.row, share.row, walk.row,
    node("label", { class: "apo-explorer-follow" }, follow, " follow: each descent starts where the last one ended"));
  if (data.caption) figure.append(node("figcaption", {}, data.caption));
  el.classList.add("apo-explorer");
  el.replaceChildren(figure);

  const count = () => (answer ? answer.path.length / 2 : 1);

  function moved() {
    stop();
    handles();
    ask(false);
  }
  function handles() {
    for (const one of [...modes, ...widths, start]) one.follow();
    for (const k of [0, 1]) {
      set(stems[k], { x1: leftX(setting.means[k]), x2: leftX(setting.means[k]) });
      set(bars[k], { x1: leftX(setting.means[k]), x2: leftX(setting.means[k] + outward(k) * setting.sds[k]) });
    }
    order.follow();
    share.follow();
    follow.checked = setting.follow;
  }

  function ask(rest) {
    clearTimeout(resting);
    if (waiting) {
      stale = true;
      return;
    }
    lastAsked += 1;
    setting = { ...setting, rest, id: lastAsked };
    waiting = true;
    stale = false;
    said.setAttribute("aria-live", rest ? "polite" : "off"); // a screen reader hears where it came to rest
    clearTimeout(silence);
    silence = setTimeout(() => {
      waiting = false;
      said.textContent = "The kernel does not answer: it is busy or gone. Run this cell again.";
    }, SILENCE);
    model.set("setting", structuredClone(setting));
    model.save_changes();
  }

  function heard() {
    const told = model.get("answer");
    answer = { ...told, target: numbers(told.target), densities: numbers(told.densities), path: numbers(told.path) };
    const mine = answer.id === lastAsked && waiting;
    if (mine) {
      waiting = false;
      clearTimeout(silence);
    } else if (!waiting) {
      setting = structuredClone(model.get("setting")); // moved from Python, or in another view
      lastAsked = setting.id;
      handles();
    }
    if (setting.follow && !start.held) {
      // The ring stays at the beginning of the path.
      setting.start = [clamp(answer.path[0], landscape.means), clamp(Math.exp(answer.path[1]), landscape.sds)].map((part) => rounded(part));
      start.follow();
    }
    draw();
    if (!mine) return;
    if (stale) ask(false);
    else if (!answer.rest) resting = setTimeout(() => ask(true), REST);
    else if (setting.placed) setting.placed = false;
  }

  // Row by row: the minima, then the path's steps.
  const density = (row) => curve(places, [...answer.densities.subarray(row * grid.length, (row + 1) * grid.length)].map(leftY));

  function draw() {
    const outline = curve(places, [...answer.target].map(leftY));
    target.setAttribute("d", `${outline}L${places.at(-1)} ${leftY(0)}L${places[0]} ${leftY(0)}Z`);
    el.style.setProperty("--alpha-color", answer.color);
    fits.forEach((fit, i) => {
      const found = answer.minima[i];
      fit.style.display = found ? "" : "none";
      if (!found) return;
      fit.setAttribute("d", density(i));
      fit.classList.toggle("apo-explorer-best", found.best);
    });
    marks.replaceChildren(...answer.minima.map((found) => {
      const at = `translate(${rightX(found.mean)} ${rightY(Math.log(found.sd))})`;
      return found.best
        ? shape("path", { class: "apo-explorer-star", transform: at, d: star(10) })
        : shape("circle", { class: "apo-explorer-other", transform: at, r: 5 });
    }));
    if (answer.bands) {
      const shades = answer.bands.length;
      bands.replaceChildren(...answer.bands.map((d, i) => {
        const level = Math.round(70 + (170 * i) / (shades - 1));
        return shape("path", { d, fill: `rgb(${level} ${level} ${level})`, "fill-rule": "evenodd" });
      }));
    }
    bands.classList.toggle("apo-explorer-old", !answer.rest);
    said.textContent = answer.text;
    walk.input.max = Math.max(1, count() - 1);
    walk.input.disabled = play.disabled = count() < 2;
    if (answer.rest && count() > 2 && !matchMedia("(prefers-reduced-motion: reduce)").matches && el.dataset.answered) run();
    else show(count() - 1);
    el.dataset.rest = String(answer.rest);
    el.dataset.answered = answer.id;
  }
  const star = (size) =>
    "M" + Array.from({ length: 10 }, (_, i) => {
      const [angle, radius] = [(Math.PI * (i - 2.5)) / 5, i % 2 ? size * 0.42 : size];
      return `${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`;
    }).join("L") + "Z";

  function show(next) {
    step = next;
    const points = Array.from({ length: step + 1 }, (_, i) => [rightX(answer.path[2 * i]), rightY(answer.path[2 * i + 1])]);
    const d = "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
    path.setAttribute("d", d);
    halo.setAttribute("d", d);
    dots.replaceChildren(...points.map(([cx, cy]) => shape("circle", { class: "apo-explorer-dot", cx, cy, r: 2.5 })));
    set(here, { cx: points[step][0], cy: points[step][1] });
    const first = answer.minima.length;
    const chosen = [...new Set(Array.from({ length: FADED }, (_, i) => Math.floor((step * i) / FADED)))].filter((i) => i < step);
    steps.forEach((line, i) => {
      line.style.display = i < chosen.length ? "" : "none";
      if (i >= chosen.length) return;
      line.setAttribute("d", density(first + chosen[i]));
      line.style.opacity = 0.2 + (0.5 * (i + 1)) / chosen.length;
    });
    now.setAttribute("d", density(first + step));
    el.dataset.step = step;
    walk.follow();
  }
  function run() {
    stop();
    show(0);
    play.textContent = "\u275A\u275A";
    play.setAttribute("aria-label", "Pause");
    playing = setInterval(() => {
      if (!el.isConnected || step >= count() - 1) return stop();
      show(step + 1);
    }, clamp(1600 / count(), [40, 200]));
  }
  function stop() {
    clearInterval(playing);
    playing = null;
    play.textContent = "\u25B6";
    play.setAttribute("aria-label", "Play: the optimiser's steps, one after the other");
  }
  play.addEventListener("click", () => (playing ? stop() : run()));

  stop();
  handles();
  model.on("change:answer", heard);
  heard();
  return () => {
    stop();
    clearTimeout(resting);
    clearTimeout(silence);
    model.off("change:answer", heard);
  };
}

export default { render };
