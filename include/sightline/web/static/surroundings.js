// The page around: its light or dark theme, and links that lead out of its frame. Loaded before the body is
// drawn, so that nothing flashes.
(() => {
  const around = (() => {
    try {
      return window.parent === window ? null : window.parent.document;
    } catch {
      return null; // a page of another origin
    }
  })();

  if (around) {
    const take = () => {
      const { classList } = around.documentElement;
      for (const theme of ["light", "dark"]) {
        document.documentElement.classList.toggle(theme, classList.contains(theme));
      }
    };
    take();
    new MutationObserver(take).observe(around.documentElement, { attributeFilter: ["class"] });
  }

  // A frame may not navigate the page around it; that page's own links may.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-out]");
    if (!link || !around || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const theirs = around.createElement("a");
    theirs.href = link.href;
    theirs.click();
  });
})();
