"use strict";

// A table of a page, of whose rows those of one page are made at a time.
class SortableTable {
  constructor(holder) {
    this.holder = holder;
    const data = JSON.parse(holder.querySelector('script[type="application/json"]').textContent);
    this.columns = data.columns;
    this.rows = data.rows;
    this.named = Math.max(this.columns.findIndex((column) => column.kind === "text"), 0);
    this.order = this.rows.map((_, place) => place);
    this.sorting = null;
    this.page = 0;
    this.body = holder.querySelector("tbody");
    this.filter = holder.querySelector("[data-filter]");
    this.size = holder.querySelector("[data-size]");
    this.most = holder.querySelector("[data-rows]");
    for (const button of holder.querySelectorAll("[data-column]")) {
      button.addEventListener("click", () => this.sortBy(Number(button.dataset.column)));
    }
    for (const button of holder.querySelectorAll("[data-page]")) {
      button.addEventListener("click", () => this.turn(button.dataset.page));
    }
    holder.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    this.filter.addEventListener("input", () => this.arrange());
    this.most.addEventListener("change", () => this.arrange());
    this.size?.addEventListener("change", () => this.resize());
    this.resize();
    this.arrange();
  }

  resize() {
    if (this.size) this.holder.style.setProperty("--picture", this.size.value);
  }

  // Numbers begin with the largest, texts and the first column with the first; then the other way.
  sortBy(column) {
    const up = this.columns[column].kind === "text" || column === 0;
    const again = this.sorting !== null && this.sorting.column === column;
    this.sorting = { column, ascending: again ? !this.sorting.ascending : up };
    for (const button of this.holder.querySelectorAll("[data-column]")) {
      const here = Number(button.dataset.column) === column;
      const direction = this.sorting.ascending ? "ascending" : "descending";
      button.closest("th").setAttribute("aria-sort", here ? direction : "none");
    }
    this.arrange();
  }

  // What is not known goes behind all that is, whichever way.
  compare(one, other) {
    const { column, ascending } = this.sorting;
    const [left, right] = [this.rows[one][column], this.rows[other][column]];
    if (left === null || right === null) return (left === null) - (right === null) || one - other;
    const text = this.columns[column].kind === "text";
    const sign = text ? left.localeCompare(right, undefined, { numeric: true }) : left - right;
    return (ascending ? sign : -sign) || one - other;
  }

  arrange() {
    const wanted = this.filter.value.trim().toLocaleLowerCase();
    this.order = this.rows.map((_, place) => place).filter((place) =>
      String(this.rows[place][this.named]).toLocaleLowerCase().includes(wanted));
    if (this.sorting !== null) this.order.sort((one, other) => this.compare(one, other));
    this.page = 0;
    this.show();
  }

  get pages() {
    return Math.max(Math.ceil(this.order.length / Number(this.most.value)), 1);
  }

  turn(where) {
    const last = this.pages - 1;
    const places = { first: 0, previous: this.page - 1, next: this.page + 1, last };
    this.page = Math.min(Math.max(places[where], 0), last);
    this.show();
    this.holder.scrollIntoView({ block: "start" });
  }

  show() {
    const most = Number(this.most.value);
    const begin = this.page * most;
    const shown = this.order.slice(begin, begin + most);
    // Few rows at a time, so that thousands of pictures are no burden.
    this.body.replaceChildren(...shown.map((place) => this.row(this.rows[place])));
    const total = this.order.length;
    const range = total ? `${begin + 1} to ${begin + shown.length}` : "none";
    const all = total === this.rows.length ? `${total}` : `${total} (of ${this.rows.length})`;
    this.holder.querySelector("[data-status]").textContent =
      `Rows ${range} of ${all}${this.sortingText()}.`;
    this.holder.querySelector("[data-place]").textContent = `page ${this.page + 1} of ${this.pages}`;
    // They stay where the focus is, so they are not switched off for good.
    for (const button of this.holder.querySelectorAll("[data-page]")) {
      const back = ["first", "previous"].includes(button.dataset.page);
      const end = back ? this.page === 0 : this.page === this.pages - 1;
      button.setAttribute("aria-disabled", String(end));
    }
  }

  sortingText() {
    if (this.sorting === null) return "";
    const column = this.columns[this.sorting.column];
    const name = [column.group, column.name].filter(Boolean).join(", ");
    return `, sorted by ${name}, ${this.sorting.ascending ? "ascending" : "descending"}`;
  }

  row(values) {
    const row = document.createElement("tr");
    row.append(...this.columns.map((column, place) => {
      const cell = document.createElement(place === this.named ? "th" : "td");
      if (place === this.named) cell.scope = "row";
      if (column.kind === "picture") {
        if (values[place] !== null) cell.append(this.picture(column, values, place));
      } else {
        cell.textContent = written(column, values[place]);
        cell.className = column.kind;
        if (column.kind === "gain" && /[1-9]/.test(cell.textContent)) {
          cell.classList.add(values[place] > 0 ? "better" : "worse");
        }
      }
      return cell;
    }));
    return row;
  }

  picture(column, values, place) {
    const picture = document.createElement("img");
    picture.src = values[place];
    picture.alt = `${column.name} picture, ${column.group}, prompt ${values[this.named]}`;
    return picture;
  }
}

function written(column, value) {
  if (value === null) return "\u2013";
  if (column.kind === "text") return value;
  const digits = { minimumFractionDigits: column.decimals, maximumFractionDigits: column.decimals };
  const signed = column.kind === "gain" ? { signDisplay: "exceptZero" } : {};
  return value.toLocaleString("en", { ...digits, ...signed });
}

// The prompts of a sweep's points are kept once, and join a point's config when it is looked at.
function completeConfig(details) {
  const prompts = document.getElementById(details.dataset.prompts);
  const text = details.querySelector("pre.long");
  if (prompts === null || details.dataset.complete) return;
  details.dataset.complete = "true";
  text.textContent += JSON.parse(prompts.textContent);
  const link = details.querySelector("a[download]");
  link.href = URL.createObjectURL(new Blob([text.textContent], { type: "text/plain" }));
}

for (const holder of document.querySelectorAll("[data-table]")) new SortableTable(holder);
for (const details of document.querySelectorAll("details[data-prompts]")) {
  details.addEventListener("toggle", () => completeConfig(details));
}
