"use strict";
(() => {
  // The pointer or the arrow keys select a step; the legends of all charts with that x axis show their values at it.
  const format = (v) => {
    const size = Math.abs(v);
    if (size !== 0 && (size < 1e-3 || size >= 1e9)) return v.toExponential(3);
    return v.toLocaleString("en", size >= 1e4 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 5 });
  };
  const position = (v, [low, high, log]) =>
    log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low);
  const value = (ratio, [low, high, log]) =>
    log ? low * Math.pow(high / low, ratio) : low + ratio * (high - low);
  const nearest = (list, x) => {
    let a = 0, b = list.length - 1;
    while (b - a > 1) {
      const middle = (a + b) >> 1;
      if (list[middle] <= x) a = middle; else b = middle;
    }
    return x - list[a] <= list[b] - x ? a : b;
  };

  const charts = [];
  for (const element of document.querySelectorAll("figure.chart")) {
    const table = element.querySelector("script");
    if (!table) continue;
    const data = JSON.parse(table.textContent);
    charts.push({
      data,
      element,
      plot: element.querySelector("svg.plot"),
      cursor: element.querySelector(".cursor"),
      where: element.querySelector(".where"),
      out: [...element.querySelectorAll(".key output")],
      main: data.series.reduce((best, s, i, all) => (s.x.length > all[best].x.length ? i : best), 0),
    });
  }

  const show = (label, x) => {
    for (const chart of charts) {
      const { data, element, cursor, where, out } = chart;
      const ratio = data.label === label && x !== null ? position(x, data.x) : NaN;
      const inside = ratio >= -1e-9 && ratio <= 1 + 1e-9;
      cursor.classList.toggle("on", inside);
      element.classList.toggle("reading", inside);
      where.textContent = inside ? `${label} ${format(x)}` : "";
      if (inside) {
        cursor.setAttribute("x1", `${100 * ratio}%`);
        cursor.setAttribute("x2", `${100 * ratio}%`);
      }
      data.series.forEach((series, i) => {
        if (!inside || !series.x.length) { out[i].textContent = ""; return; }
        const at = nearest(series.x, x);
        out[i].textContent = format(series.y[at]) + (series.x[at] === x ? "" : ` at ${format(series.x[at])}`);
      });
    }
  };

  for (const chart of charts) {
    const { data, plot, main } = chart;
    const xs = data.series.length ? data.series[main].x : [];
    if (!xs.length) continue;
    let now = -1;
    const choose = (i) => {
      now = Math.min(Math.max(i, 0), xs.length - 1);
      show(data.label, xs[now]);
    };
    const point = (event) => {
      const box = plot.getBoundingClientRect();
      choose(nearest(xs, value((event.clientX - box.left) / box.width, data.x)));
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(data.label, null); });
    plot.setAttribute("tabindex", "0");
    plot.addEventListener("blur", () => show(data.label, null));
    plot.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -xs.length, End: xs.length };
      if (event.key === "Escape") show(data.label, null);
      if (!(event.key in steps)) return;
      event.preventDefault();
      choose(now < 0 && event.key === "ArrowLeft" ? xs.length - 1 : now + steps[event.key]);
    });
  }

  // A copy button on every block of commands.
  const select = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };
  for (const block of document.querySelectorAll("pre.copy")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      let done = true;
      try {
        await navigator.clipboard.writeText(block.textContent);
      } catch {
        select(block);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    block.parentNode.insertBefore(button, block);
  }

  // Open all details for printing.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
