// Keys of the review page. A key that was pressed for one row never falls on the next: until an answer has come, and for
// a moment after it, the deciding keys do nothing.
(() => {
  const KEYS = {
    a: "accept", r: "reject", e: "edit", u: "undo", ArrowLeft: "earlier", ArrowRight: "later",
  };
  const SETTLE_MS = 250;
  const WAIT_MS = 15000;
  let turn = "", since = 0, pressed = 0, editing = false;

  const now = () => performance.now();
  const find = (name) => document.getElementById("la-" + name);
  const box = (name) => {
    const found = find(name);
    return found && found.querySelector("textarea, input");
  };
  const shown = (element) => Boolean(element) && element.offsetParent !== null;

  function watch() {
    const head = document.querySelector("[data-turn]");
    const current = head ? head.dataset.turn : "";
    if (current !== turn) {
      turn = current;
      since = now();
      pressed = 0;
      if (document.activeElement && document.activeElement.closest("button")) document.activeElement.blur();
    }
    if (editing !== shown(box("editor"))) {  // the editor comes into sight some time after its text
      editing = !editing;
      if (editing) box("editor").focus();
    }
  }

  function press(name) {
    const waiting = pressed && now() - pressed < WAIT_MS;
    if (waiting || now() - since < SETTLE_MS) return;
    const button = find(name);
    if (!shown(button) || button.disabled) return;
    pressed = now();
    button.click();
  }

  function inText(event, target) {
    if (event.key === "Escape") {
      event.preventDefault();
      if (target.closest("#la-editor")) press("leave");
      else target.blur();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && target.closest("#la-editor")) {
      event.preventDefault();
      event.stopPropagation();
      press("save");
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.repeat) return;
    const target = event.target;
    if (target.closest && target.closest("textarea, input, select, [contenteditable=true]")) return inText(event, target);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && shown(find("leave"))) return press("leave");
    if (event.key === "n" && shown(box("note"))) {
      event.preventDefault();
      return box("note").focus();
    }
    const name = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (name && (!shown(find("editing")) || name === "edit")) {
      event.preventDefault();
      if (name === "edit" && shown(box("editor"))) return box("editor").focus();
      press(name);
    }
  }, true);

  // A second click before the answer would be about a row that is already decided.
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("#la-actions button, #la-editing button");
    if (!button || !event.isTrusted) return;
    if (pressed && now() - pressed < WAIT_MS) {
      event.preventDefault();
      event.stopImmediatePropagation();
    } else {
      pressed = now();
    }
  }, true);

  new MutationObserver(watch).observe(document.documentElement, { subtree: true, childList: true, attributes: true });
})();
