// The viewer of the page: what a token or a section looked at, as heat over the picture. Numbers come from attention_maps/KEY, once
// an answer is there and for every layer that is chosen; everything else happens here. Texts are only ever text nodes.
(() => {
  const HEAT = [[254, 217, 118], [253, 141, 60], [227, 26, 28], [128, 0, 38]];  // from an even share to the peak
  const LEAST_TOP = 3;  // times an even share that the scale goes up to at least: nearly even maps stay pale
  const answers = new WeakMap();  // article -> {key, layers: {mean: data, 0: data, …}, layer, pinned, token, section}
  const find = (article, name) => article.querySelector(".la-" + name);
  const percent = (share) => (100 * share).toFixed(share < 0.0995 ? 1 : 0) + "%";

  // To whoever listens to the page instead of looking at it.
  function announce(text) {
    const line = document.querySelector(".la-live");
    if (line && text) line.textContent = text;
  }

  // An answer that has just ended.
  const spoken = new Map();  // mode -> the last end of it that was announced
  function announceEnd(article) {
    const ended = ["done", "stopped", "failed"].find((status) => article.classList.contains("la-" + status));
    const mode = article.dataset.mode, before = spoken.get(mode);
    spoken.set(mode, ended ? article.dataset.key || ended : "");
    if (!ended || before === spoken.get(mode)) return;
    ends.push([article.querySelector("h3").textContent, find(article, "verdict").textContent].join(" "));
    setTimeout(() => announce(ends.splice(0).join(". ")), 300);  // answers that end together are said together
  }
  const ends = [];

  function state(article) {
    const key = article.dataset.key || "";
    let own = answers.get(article);
    if (!own || own.key !== key) {
      own = { key, layers: {}, layer: "mean", pinned: null };
      answers.set(article, own);
      mask(article, null);
      sizes.observe(article);
      if (key) load(article, "mean");
    }
    return own;
  }

  async function load(article, layer) {
    const own = answers.get(article), key = own.key;
    own.layer = layer;
    if (!own.layers[layer]) {
      say(article, "measuring what it looked at …");
      try {
        const response = await fetch(`attention_maps/${encodeURIComponent(key)}?layer=${encodeURIComponent(layer)}`);
        const data = await response.json();
        if (!response.ok) throw new Error(data.error || `status ${response.status}`);
        data.bytes = Uint8Array.from(atob(data.maps), (letter) => letter.charCodeAt(0));
        own.layers[layer] = data;
      } catch (error) {
        if (own.key === key) say(article, "cannot be measured: " + error.message, true);
        return;
      }
    }
    if (answers.get(article) !== own || own.layer !== layer) return;
    const data = own.layers[layer];
    if (!own.ready) prepare(article, own, data);
    timeline(article, data);
    show(article, own.pinned);
  }

  // Once per answer: slider, layers, and what is shown first (the last reflection, or else the last section).
  function prepare(article, own, data) {
    own.ready = true;
    const range = find(article, "range"), layers = find(article, "layer");
    range.max = Math.max(0, data.texts.length - 1);
    for (let layer = 0; layer < data.layers; layer++) layers.append(new Option("layer " + layer, layer));
    find(article, "scrub").hidden = find(article, "tools").hidden = false;
    const names = data.sections.map((section) => section.name);
    const last = names.map((name) => name.startsWith("REFLECTION")).lastIndexOf(true);
    if (names.length) own.pinned = { section: last >= 0 ? last : names.length - 1 };
  }

  function say(article, text, wrong = false) {
    const line = find(article, "reading");
    if (!line) return;
    line.textContent = text;
    line.classList.toggle("la-wrong", wrong);
  }

  // what: {token: i}, {section: i}, {rows: look element} or null
  function show(article, what) {
    const own = answers.get(article), data = own && own.layers[own.layer];
    article.querySelectorAll(".la-on").forEach((one) => one.classList.remove("la-on"));
    article.querySelectorAll(".la-look[aria-pressed]").forEach((one) => one.setAttribute("aria-pressed", "false"));
    mask(article, what && what.look);
    if (!data || !what || what.look) {
      heat(article, null);
      if (what && what.look) {
        what.look.classList.add("la-on");
        what.look.setAttribute("aria-pressed", "true");
        say(article, what.look.innerText.trim().replace(/\s+/g, " "));
      }
      return;
    }
    const many = data.texts.length;
    if ("token" in what) {
      const token = Math.min(many - 1, Math.max(0, what.token));
      if (what === own.pinned) find(article, "range").value = token;
      const span = article.querySelector(`[data-t="${token}"]`);
      if (span) span.classList.add("la-on");
      const name = data.sections[data.section_of[token]];
      const written = data.texts[token].trim();
      const text = written.startsWith("<") ? "tag" : written ? "“" + written + "”" : "a blank";
      reading(article, data, token, `${text} · token ${token + 1} of ${many}${name ? " · " + name.name : ""}`);
      heat(article, data, token);
      cursor(article, data, token, token);
    } else {
      const section = data.sections[what.section];
      if (!section) return;
      const card = article.querySelector(`[data-section="${what.section}"]`);
      if (card) card.classList.add("la-on");
      const first = data.section_of.indexOf(what.section), last = data.section_of.lastIndexOf(what.section);
      reading(article, data, many + what.section, `${section.name} · mean of its ${section.tokens} tokens`);
      heat(article, data, many + what.section);
      cursor(article, data, first, last);
    }
  }

  function reading(article, data, row, title) {
    const total = data.totals[row], even = total / (data.grid[0] * data.grid[1]);
    const peak = even > 0 ? ` · strongest patch ${(data.peaks[row] / even).toFixed(1)}× an even share` : "";
    const line = find(article, "reading"), strong = document.createElement("b");
    strong.textContent = title;
    line.classList.remove("la-wrong");
    line.replaceChildren(strong, `${percent(total)} of its attention is on the picture${peak}`);
    find(article, "range").setAttribute("aria-valuetext", `${title}: ${percent(total)} on the picture${where(data, row)}`);
  }

  // The strongest patch of a map in words.
  function where(data, row) {
    const [rows, columns] = data.grid, own = data.bytes.subarray(row * rows * columns, (row + 1) * rows * columns);
    const place = own.indexOf(Math.max(...own));
    return `, most at row ${Math.floor(place / columns) + 1} of ${rows}, column ${(place % columns) + 1} of ${columns}`;
  }

  function mask(article, look) {
    const veil = article.querySelector(".la-picture .la-veil");
    if (!veil) return;
    const from = look && look.querySelector(".la-veil");
    veil.setAttribute("viewBox", from ? from.getAttribute("viewBox") : "0 0 1 1");
    veil.firstElementChild.setAttribute("d", from ? from.firstElementChild.getAttribute("d") : "");
  }

  function fitted(canvas) {
    const box = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(box.width * scale);
    canvas.height = Math.round(box.height * scale);
    return canvas.getContext("2d");
  }

  function heat(article, data, row) {
    const canvas = find(article, "heat");
    if (!canvas) return;
    const pen = fitted(canvas);
    article.classList.toggle("la-hot", Boolean(data));
    const sinks = find(article, "sinks");
    if (!data) return;
    const [rows, columns] = data.grid, places = rows * columns;
    const width = canvas.width / columns, height = canvas.height / rows;
    const even = data.totals[row] / places, peak = data.peaks[row];
    const top = Math.max(LEAST_TOP, peak / even);
    for (let place = 0; place < places; place++) {
      const value = (((data.bytes[row * places + place] / 255) * peak) / even - 1) / (top - 1);
      if (!(value > 0)) continue;
      const x = Math.round((place % columns) * width), y = Math.round(Math.floor(place / columns) * height);
      pen.fillStyle = colour(value);
      pen.fillRect(x, y, Math.ceil(width), Math.ceil(height));
    }
    const size = Math.min(width, height) * 0.2;
    pen.lineWidth = Math.max(1.5, size / 3.5);
    const { prompt, constant } = data.sinks;
    mark(pen, prompt, columns, width, height, (x, y) => {
      pen.moveTo(x - size, y - size); pen.lineTo(x + size, y + size);
      pen.moveTo(x + size, y - size); pen.lineTo(x - size, y + size);
    });
    mark(pen, constant, columns, width, height, (x, y) => {
      pen.moveTo(x + 1.5 * size, y); pen.arc(x, y, 1.5 * size, 0, 2 * Math.PI);
    });
    sinks.textContent = [prompt.length && `× ${prompt.length} sink${prompt.length > 1 ? "s" : ""} of the prompt`,
      constant.length && `○ ${constant.length} in every section`].filter(Boolean).join("   ");
    sinks.title = "sinks: patches that get at least 5 times an even share whatever is written";
  }

  function mark(pen, places, columns, width, height, draw) {
    for (const [style, wider] of [["rgb(255 255 255 / .9)", 2], ["rgb(20 20 25)", 0]]) {
      pen.beginPath();
      for (const place of places) {
        draw((place % columns + 0.5) * width, (Math.floor(place / columns) + 0.5) * height);
      }
      const before = pen.lineWidth;
      pen.strokeStyle = style;
      pen.lineWidth = before + wider;
      pen.stroke();
      pen.lineWidth = before;
    }
  }

  function colour(value) {
    const at = Math.min(1, value) * (HEAT.length - 1), low = Math.min(HEAT.length - 2, Math.floor(at)), part = at - low;
    const mixed = HEAT[low].map((from, i) => Math.round(from + (HEAT[low + 1][i] - from) * part));
    return `rgb(${mixed.join(" ")} / ${(0.12 + 0.68 * Math.sqrt(value)).toFixed(3)})`;
  }

  // A bar per token: its attention on the picture, of rows in the prompt and (paler) of rows that were put back.
  function timeline(article, data) {
    const canvas = find(article, "timeline"), pen = fitted(canvas);
    const many = data.texts.length, step = canvas.width / Math.max(1, many);
    const top = Math.max(...data.original.map((share, i) => share + data.reinserted[i]), 1e-9);
    const hues = {};
    for (let i = 0; i < many; i++) {
      const name = (data.sections[data.section_of[i]] || { name: "outside" }).name.split(" ")[0].toLowerCase();
      hues[name] = hues[name] || getComputedStyle(article).getPropertyValue("--la-" + name).trim() || "120 120 120";
      const x = i * step, wide = Math.max(1, step - (step > 4 ? 1 : 0));
      const original = (data.original[i] / top) * canvas.height * 0.94;
      const again = (data.reinserted[i] / top) * canvas.height * 0.94;
      pen.fillStyle = `rgb(${hues[name]} / .95)`;
      pen.fillRect(x, canvas.height - original, wide, original);
      pen.fillStyle = `rgb(${hues[name]} / .42)`;
      pen.fillRect(x, canvas.height - original - again, wide, again);
    }
    pen.fillStyle = getComputedStyle(article).color;
    for (const look of data.looks) pen.fillRect(Math.round(look.before * step) - 1, 0, 2, canvas.height);
    canvas.title = "attention on the picture, a bar per token; pale: on tokens that were put back; lines: looks";
  }

  function cursor(article, data, first, last) {
    const scrub = find(article, "scrub"), many = Math.max(1, data.texts.length);
    scrub.style.setProperty("--la-from", (100 * first) / many + "%");
    scrub.style.setProperty("--la-wide", (100 * (last - first + 1)) / many + "%");
  }

  const articleOf = (target) => (target.closest ? target.closest(".la-answer[data-key]") : null);
  const ready = (article) => article && answers.get(article) && answers.get(article).ready;

  function pointed(event) {
    const article = articleOf(event.target);
    if (!ready(article)) return;
    const own = answers.get(article), span = event.target.closest("[data-t]");
    if (event.type === "pointerover" && event.pointerType === "mouse" && span) show(article, { token: +span.dataset.t });
    if (event.type === "pointerout" && event.pointerType === "mouse" && span) show(article, own.pinned);
  }

  function clicked(event) {
    const target = event.target;
    if (!target.closest) return;
    if (target.closest(".la-theme")) return void document.body.classList.toggle("dark");
    if (target.closest(".la-copy")) return copy(target.closest(".la-copy"));
    const link = target.closest(".la-verdicts a");
    if (link) return void (event.preventDefault(), document.querySelector(link.hash).scrollIntoView({ block: "start" }));
    const article = target.closest(".la-answer");
    if (!article) return;
    const look = target.closest(".la-look[data-at]"), span = target.closest("[data-t]"), card = target.closest("h4");
    const own = state(article);
    if (look) own.pinned = own.pinned && own.pinned.look === look ? own.before || null : { look };
    else if (!ready(article)) return;
    else if (span) own.pinned = { token: +span.dataset.t };
    else if (card && card.parentElement.dataset.section) own.pinned = { section: +card.parentElement.dataset.section };
    else return;
    if (!own.pinned || !own.pinned.look) own.before = own.pinned;
    show(article, own.pinned);
    announce(find(article, "reading").innerText);
  }

  function tokenAt(article, event) {
    const box = find(article, "timeline").getBoundingClientRect();
    const many = answers.get(article).layers[answers.get(article).layer].texts.length;
    return Math.min(many - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * many)));
  }

  function scrubbed(event) {
    const article = articleOf(event.target);
    if (!ready(article)) return;
    const own = answers.get(article);
    if (event.target.matches(".la-range")) show(article, (own.pinned = own.before = { token: +event.target.value }));
    if (event.target.matches(".la-layer")) load(article, event.target.value);
  }

  function hovered(event) {
    if (event.pointerType !== "mouse" || !event.target.matches || !event.target.matches(".la-range")) return;
    const article = articleOf(event.target);
    if (!ready(article) || event.buttons) return;
    show(article, event.type === "pointermove" ? { token: tokenAt(article, event) } : answers.get(article).pinned);
  }

  async function copy(button) {
    const code = button.closest(".la-snippet").querySelector("pre");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {  // no clipboard outside of localhost and https: leave the code selected
      getSelection().selectAllChildren(code);
      button.textContent = "selected";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  }

  function watch() {
    document.querySelectorAll(".la-answer").forEach((article) => (state(article), announceEnd(article)));
  }

  function redraw(article) {
    if (!ready(article)) return;
    const own = answers.get(article);
    timeline(article, own.layers[own.layer] || own.layers.mean);
    show(article, own.pinned);
  }

  const widths = new WeakMap();
  const sizes = new ResizeObserver((entries) => entries.forEach(({ target, contentRect }) => {
    if (widths.get(target) !== contentRect.width) redraw(target);
    widths.set(target, contentRect.width);
  }));

  document.addEventListener("pointerover", pointed);
  document.addEventListener("pointerout", pointed);
  document.addEventListener("click", clicked);
  document.addEventListener("input", scrubbed);
  document.addEventListener("pointermove", hovered);
  document.addEventListener("pointerout", hovered);
  const observer = new MutationObserver(watch);
  observer.observe(document.documentElement, { subtree: true, childList: true, attributeFilter: ["data-key"] });
  document.addEventListener("DOMContentLoaded", () => {  // light or dark
    const all = () => document.querySelectorAll(".la-answer[data-key]").forEach(redraw);
    new MutationObserver(all).observe(document.body, { attributeFilter: ["class"] });
  });
})();
