// A reader's own thing, cut out: an emoji of their system's font, a drawing, or a picture whose ground is taken away.
// Each is a canvas of SIZE x SIZE pixels, see-through where the thing is not.

export const SIZE = 256;
const LARGEST = 40e6; // pixels of a picture; beyond, a phone's memory is at stake
const PAST = 30; // strokes that can be taken back, a quarter of a megabyte each

const blank = (side = SIZE) => Object.assign(document.createElement("canvas"), { width: side, height: side });

// Where it stands in each picture: its width and centre in shares of a side, and how far it is turned; as the model's
// own pictures have it, one no more like the next than they are.
const PLACES = [[0.78, 0.5, 0.53, 0], [0.84, 0.47, 0.55, 4], [0.74, 0.53, 0.5, -5], [0.8, 0.54, 0.56, 2], [0.76, 0.46, 0.52, -3]];

// Bytes of RGBA for every place, side x side.
export function placed(thing, side) {
  const { data } = thing.getContext("2d").getImageData(0, 0, SIZE, SIZE);
  const box = bounds(data);
  if (!box) throw new Error("there is nothing to see yet; draw it, or choose something else");
  const [left, top, width, height] = box;
  return PLACES.map(([share, x, y, degrees]) => {
    const pen = blank(side).getContext("2d");
    const scale = (share * side) / Math.max(width, height);
    pen.imageSmoothingQuality = "high";
    pen.translate(x * side, y * side);
    pen.rotate((degrees * Math.PI) / 180);
    pen.drawImage(thing, left, top, width, height, (-width * scale) / 2, (-height * scale) / 2, width * scale, height * scale);
    return new Uint8Array(pen.getImageData(0, 0, side, side).data);
  });
}

// left, top, width and height of what can be seen, or null.
function bounds(data) {
  let [left, top, right, bottom] = [SIZE, SIZE, -1, -1];
  for (let i = 0; i < SIZE * SIZE; i++) {
    if (data[4 * i + 3] < 16) continue;
    const [x, y] = [i % SIZE, Math.floor(i / SIZE)];
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  }
  return right < 0 ? null : [left, top, right - left + 1, bottom - top + 1];
}

export function emoji(text) {
  const thing = blank();
  const pen = thing.getContext("2d");
  Object.assign(pen, { font: `${0.72 * SIZE}px sans-serif`, textAlign: "center", textBaseline: "middle", fillStyle: "#1f2a37" });
  pen.fillText(text, SIZE / 2, 0.54 * SIZE, 0.98 * SIZE);
  return thing;
}

// A file as a picture, the whole of it in the square. Raises an Error that says what is wrong with it.
export async function picture(file) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no picture that this browser can read; try a PNG or a JPEG`);
  }
  const { width, height } = image;
  if (width * height > LARGEST) throw new Error(`${file.name} has ${width} × ${height} pixels; make it smaller than ${LARGEST / 1e6} million`);
  const thing = blank();
  const pen = thing.getContext("2d");
  const scale = SIZE / Math.max(width, height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, (SIZE - width * scale) / 2, (SIZE - height * scale) / 2, width * scale, height * scale);
  image.close();
  return thing;
}

// What hangs together with the rim and has nearly its colour becomes see-through. near: how far colours may lie apart,
// of 255.
export function cutOut(thing, near) {
  const pen = thing.getContext("2d");
  const picture = pen.getImageData(0, 0, SIZE, SIZE);
  const { data } = picture;
  const box = bounds(data);
  if (!box || !near) return thing;
  const [left, top, width, height] = box;
  const [right, bottom] = [left + width - 1, top + height - 1];
  const rim = [];
  for (let x = left; x <= right; x++) rim.push(x + top * SIZE, x + bottom * SIZE);
  for (let y = top; y <= bottom; y++) rim.push(left + y * SIZE, right + y * SIZE);
  const median = (c) => rim.map((i) => data[4 * i + c]).sort((a, b) => a - b)[rim.length >> 1];
  const ground = [0, 1, 2].map(median);
  const far = (i) => Math.max(...ground.map((value, c) => Math.abs(data[4 * i + c] - value)));
  const seen = new Uint8Array(SIZE * SIZE);
  for (let left = rim; left.length;) {
    const i = left.pop();
    if (seen[i] || far(i) > near) continue;
    seen[i] = 1;
    data[4 * i + 3] = 0;
    const x = i % SIZE;
    if (x > 0) left.push(i - 1);
    if (x < SIZE - 1) left.push(i + 1);
    if (i >= SIZE) left.push(i - SIZE);
    if (i < SIZE * (SIZE - 1)) left.push(i + SIZE);
  }
  pen.putImageData(picture, 0, 0);
  return thing;
}

// Makes a canvas one to draw on, with a pointer or with the arrow keys (Shift moves the pen without drawing).
// how() tells { colour, width, rub }, or nothing while there is no drawing; rub: take away instead. done is called after
// each stroke. What comes back: keep() notes what is there, as every stroke does; undo() brings back what was noted last
// and says whether there was anything; forget() ends all that.
export function drawing(canvas, how, done) {
  Object.assign(canvas, { width: SIZE, height: SIZE });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const past = [];
  let [at, down] = [[SIZE / 2, SIZE / 2], false];
  const keep = () => {
    past.push(pen.getImageData(0, 0, SIZE, SIZE));
    if (past.length > PAST) past.shift();
  };
  const undo = () => {
    const last = past.pop();
    if (last) pen.putImageData(last, 0, 0);
    return Boolean(last);
  };
  const line = (to) => {
    const { colour, width, rub } = how();
    Object.assign(pen, { strokeStyle: colour, lineWidth: width, lineCap: "round", lineJoin: "round" });
    pen.globalCompositeOperation = rub ? "destination-out" : "source-over";
    pen.beginPath();
    pen.moveTo(...at);
    pen.lineTo(...(at = to));
    pen.stroke();
    pen.globalCompositeOperation = "source-over";
  };
  const place = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    return [((clientX - box.left) * SIZE) / box.width, ((clientY - box.top) * SIZE) / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!how()) return;
    canvas.setPointerCapture(event.pointerId);
    [at, down] = [place(event), true];
    keep();
    line([at[0] + 0.01, at[1]]); // where it does not move at all, a canvas strokes nothing, and a click is a dot
  });
  canvas.addEventListener("pointermove", (event) => { if (down) line(place(event)); });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => { if (down) { down = false; done(); } });
  }
  const ways = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
  canvas.addEventListener("keydown", (event) => {
    const way = ways[event.key];
    if (!way || !how()) return;
    event.preventDefault();
    const to = way.map((step, i) => Math.min(Math.max(at[i] + step, 0), SIZE));
    if (event.shiftKey) at = to;
    else { keep(); line(to); done(); }
  });
  return { keep, undo, forget: () => { past.length = 0; } };
}
