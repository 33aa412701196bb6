// Keys of the review page. A key or a click that was meant for one row never falls on the next: until an answer is on
// the screen, and for a moment after it, they do nothing. Times are those of the events, which may wait in a queue.
(() => {
  const KEYS = {
    a: "accept", r: "reject", e: "edit", u: "undo", ArrowLeft: "earlier", ArrowRight: "later",
  };
  const SETTLE_MS = 250;
  const WAIT_MS = 15000;
  let turn = "", row = "", from = Infinity, timer = 0, editing = false, passing = false;

  const now = () => performance.now();
  const find = (name) => document.getElementById("la-" + name);
  const box = (name) => {
    const found = find(name);
    return found && found.querySelector("textarea, input");
  };
  const shown = (element) => Boolean(element) && element.offsetParent !== null;
  const waiting = document.documentElement.classList;
  const shut = () => {
    from = Infinity;
    waiting.add("la-waiting");
  };
  const open = (after) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      from = now();
      waiting.remove("la-waiting");
    }, after);
  };

  function watch() {
    const head = document.querySelector("[data-turn]");
    const current = head ? head.dataset.turn : "";
    if (current !== turn) {
      turn = current;
      shut();
      requestAnimationFrame(() => open(SETTLE_MS));
      if (document.activeElement && document.activeElement.closest("button")) document.activeElement.blur();
      if (head && head.dataset.row !== row) {
        row = head.dataset.row;
        scrollTo(0, 0);
      }
    }
    if (editing !== shown(box("editor"))) {  // the editor comes into sight some time after its text
      editing = !editing;
      if (editing) box("editor").focus();
    }
  }

  function press(name, event) {
    const button = find(name);
    if (event.timeStamp < from || !shown(button) || button.disabled) return;
    shut();
    open(WAIT_MS);  // should no answer come
    passing = true;
    button.click();
    passing = false;
  }

  function inText(event, target) {
    if (event.key === "Escape") {
      event.preventDefault();
      if (target.closest("#la-editor")) press("leave", event);
      else target.blur();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && target.closest("#la-editor")) {
      event.preventDefault();
      event.stopPropagation();
      press("save", event);
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.repeat) return;
    const target = event.target;
    if (target.closest && target.closest("textarea, input, select")) return inText(event, target);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && shown(find("leave"))) return press("leave", event);
    if (event.key === "n" && shown(box("note"))) {
      event.preventDefault();
      return box("note").focus();
    }
    const name = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (name && (!shown(find("editing")) || name === "edit")) {
      event.preventDefault();
      if (name === "edit" && shown(box("editor"))) return box("editor").focus();
      press(name, event);
    }
  }, true);

  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("#la-dock button");
    if (!button || passing) return;
    if (event.timeStamp < from) {
      event.preventDefault();
      event.stopImmediatePropagation();
    } else {
      shut();
      open(WAIT_MS);
    }
  }, true);

  shut();
  new MutationObserver(watch).observe(document.documentElement, { subtree: true, childList: true, attributes: true });
})();
