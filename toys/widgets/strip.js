// A film strip: pictures made beforehand, shown by one or two sliders. There is no drawing code and no kernel here;
// toys/widgets/film_strip.py uses this file for the notebook widget and for pages alike.

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// data: frames (addresses of the pictures; the first knob runs fastest), sentences, knobs [{label, texts, ends, track}],
// width, height, alt, caption, fps. Returns {show(position)}; moved(position) is called after each move of the reader's.
function mount(root, data, start, moved = () => {}) {
  const counts = data.knobs.map((knob) => knob.texts.length);
  const pictures = data.frames.map((address) => {
    const picture = new Image(data.width, data.height);
    picture.alt = data.alt;
    picture.decoding = "sync"; // picture and text change in the same painted frame
    picture.src = address;
    return picture;
  });
  let position = [...start];
  let timer = null;

  const longest = data.sentences.reduce((a, b) => (b.length > a.length ? b : a), "");
  const said = node("output", { "aria-live": "polite" });
  const stage = node("div", { class: "apo-strip-stage" }, pictures[0]);
  const readouts = data.knobs.map((knob) => node("span", { class: "apo-strip-value", "aria-hidden": "true" }));
  const sliders = data.knobs.map((knob, k) => {
    const slider = node("input", { type: "range", min: 0, max: counts[k] - 1, step: 1, "aria-label": knob.label });
    if (knob.track) slider.style.setProperty("--track", knob.track);
    slider.addEventListener("input", () => {
      stop();
      go(k, slider.valueAsNumber);
    });
    return slider;
  });
  const play = node("button", { type: "button", class: "apo-strip-play" });
  const rows = data.knobs.map((knob, k) => {
    const name = node("label", {}, node("span", { class: "apo-strip-label" }, knob.label), sliders[k]);
    const ends = node("span", { class: "apo-strip-ends", "aria-hidden": "true" });
    ends.append(...knob.ends.map((end) => node("span", {}, end)));
    if (knob.ends.some(Boolean)) name.append(ends);
    return node("div", { class: "apo-strip-row" }, name, readouts[k], k ? "" : play);
  });
  // The longest sentence, unseen, holds the height: the page never jumps.
  const ghost = node("span", { class: "apo-strip-ghost", "aria-hidden": "true" }, longest);
  root.classList.add("apo-strip");
  // JupyterLab takes the arrow keys for itself unless the focused element, not a parent of it, says this.
  for (const control of [...sliders, play]) control.setAttribute("data-lm-suppress-shortcuts", "true");
  root.style.setProperty("--width", `${data.width}px`);
  stage.style.aspectRatio = `${data.width} / ${data.height}`;
  const figure = node("figure", {}, stage, node("div", { class: "apo-strip-text" }, ghost, said), ...rows);
  if (data.caption) figure.append(node("figcaption", {}, data.caption));
  root.replaceChildren(figure);

  function show(next) {
    position = next;
    const at = position[0] + counts[0] * (position[1] ?? 0);
    if (stage.firstChild !== pictures[at]) stage.replaceChildren(pictures[at]);
    stage.dataset.index = at;
    said.textContent = data.sentences[at];
    sliders.forEach((slider, k) => {
      slider.value = position[k];
      slider.setAttribute("aria-valuetext", data.knobs[k].texts[position[k]]);
      readouts[k].textContent = data.knobs[k].texts[position[k]];
    });
    for (const step of [1, -1, 2, -2, 3, -3]) pictures[at + step]?.decode().catch(() => {}); // decode ahead
  }
  function go(k, index) {
    show(position.map((old, i) => (i === k ? index : old)));
    moved(position);
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "\u25B6";
    play.setAttribute("aria-label", `Play: move ${data.knobs[0].label} by itself`);
    said.setAttribute("aria-live", "polite");
  }
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (position[0] === counts[0] - 1) go(0, 0);
    said.setAttribute("aria-live", "off"); // a screen reader cannot keep up with the pictures
    play.textContent = "\u275A\u275A";
    play.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      if (!root.isConnected || position[0] === counts[0] - 1) return stop();
      go(0, position[0] + 1);
    }, 1000 / data.fps);
  });
  stop();
  show(position);
  return { show, stop };
}

function render({ model, el }) {
  const film = new Uint8Array(model.get("film").buffer, model.get("film").byteOffset, model.get("film").byteLength);
  const data = model.get("data");
  let from = 0;
  const frames = data.sizes.map((size) => {
    const picture = new Blob([film.subarray(from, (from += size))], { type: "image/png" });
    return URL.createObjectURL(picture);
  });
  const state = () => [model.get("index"), model.get("second_index")].slice(0, data.knobs.length);
  let pending = null;
  const strip = mount(el, { ...data, frames }, state(), ([index, second_index = 0]) => {
    model.set("index", index);
    model.set("second_index", second_index);
    clearTimeout(pending); // the kernel, if there is one, hears where the slider came to rest
    pending = setTimeout(() => model.save_changes(), 150);
  });
  const follow = () => strip.show(state());
  model.on("change:index", follow);
  model.on("change:second_index", follow);
  return () => {
    strip.stop();
    clearTimeout(pending);
    model.off("change:index", follow);
    model.off("change:second_index", follow);
    frames.forEach((address) => URL.revokeObjectURL(address));
  };
}

export default { render };
