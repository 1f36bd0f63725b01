const SECONDS = 90;
const PAD = 4;

/** A line plot of the last 90 values, one a second, on a canvas; its CSS says `--line-1`, `--line-2` and `--grid`. */
export class Plot {
  #canvas;
  #floor;
  #series = [];

  /** `floor`: the least value at the top of the scale, so that a calm line does not look like a storm. */
  constructor(canvas, floor) {
    this.#canvas = canvas;
    this.#floor = floor;
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  /** Append one value a line; null leaves a gap. */
  push(...values) {
    values.forEach((value, line) => {
      this.#series[line] = [...(this.#series[line] ?? []), value].slice(-SECONDS);
    });
    this.#draw();
  }

  clear() {
    this.#series = [];
    this.#draw();
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width) return;
    this.#canvas.width = width * devicePixelRatio;
    this.#canvas.height = height * devicePixelRatio;
    const pen = this.#canvas.getContext("2d");
    pen.scale(devicePixelRatio, devicePixelRatio);
    const style = getComputedStyle(this.#canvas);
    const top = scaleTop(Math.max(this.#floor, ...this.#series.flat()));
    grid(pen, style, width, height, top);
    this.#series.forEach((values, line) => {
      pen.strokeStyle = style.getPropertyValue(`--line-${line + 1}`);
      trace(pen, values, width, height, top);
    });
  }
}

/** The next of 1, 2, 3, 5, 10, 20, 30 … */
function scaleTop(value) {
  const decade = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 5, 10].map((step) => step * decade).find((top) => top >= value);
}

function grid(pen, style, width, height, top) {
  pen.strokeStyle = style.getPropertyValue("--grid");
  pen.fillStyle = style.color;
  pen.font = `10px ${style.fontFamily}`;
  pen.beginPath();
  for (const y of [PAD, height / 2, height - PAD]) {
    pen.moveTo(0, Math.round(y) + 0.5);
    pen.lineTo(width, Math.round(y) + 0.5);
  }
  pen.stroke();
  pen.fillText(String(top), 2, PAD + 11);
}

function trace(pen, values, width, height, top) {
  pen.lineWidth = 1.6;
  pen.lineJoin = "round";
  pen.beginPath();
  let drawing = false;
  values.forEach((value, index) => {
    const x = width - ((values.length - 1 - index) * width) / (SECONDS - 1);
    const y = height - PAD - ((value ?? 0) / top) * (height - 2 * PAD);
    if (value !== null && drawing) pen.lineTo(x, y);
    else pen.moveTo(x, y);
    drawing = value !== null;
  });
  pen.stroke();
}
