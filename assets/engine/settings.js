// Where a reader's own thing is set: five of the settings that the model knows, painted as data/recipes/world.py does,
// to be read beside it. Colours and places run from 0 to 1; a painter gives a function of a pixel's x and y.

const rgb = (...values) => values.map((x) => x / 255);
const mix = (a, b, share) => a.map((x, i) => x + (b[i] - x) * share);
const clip = (x) => Math.min(Math.max(x, 0), 1);

// Painters of `side` pixels a side. draw(low, high): a number between them, by chance.
export const SETTINGS = {
  "on a white background": () => () => [1, 1, 1],
  "in the snow": (draw, side) => {
    const [hill, phase] = [draw(0.55, 0.68), draw(0, 6)];
    const flakes = dots(draw, 9, 1.3 / 64, 0.6, side);
    return (x, y) => {
      const sky = mix(rgb(150, 178, 212), rgb(205, 220, 238), y);
      const field = mix(rgb(236, 243, 252), rgb(247, 250, 255), y);
      return mix(mix(field, sky, above(hill + 0.03 * Math.sin(6 * x + phase), y, side)), [1, 1, 1], flakes(x, y));
    };
  },
  "on the grass": (draw, side) => {
    const [hill, phase] = [draw(0.55, 0.66), draw(0, 6)];
    return (x, y) => {
      const sky = mix(rgb(118, 186, 250), rgb(186, 220, 255), y);
      const field = mix(rgb(142, 205, 84), rgb(62, 142, 44), y);
      return mix(field, sky, above(hill + 0.05 * Math.sin(4 * x + phase), y, side));
    };
  },
  "at night": (draw, side) => {
    const stars = dots(draw, 9, 0.9 / 64, 1, side);
    const moon = disc(draw(0.1, 0.2), draw(0.1, 0.2), 0.085, side);
    return (x, y) => {
      const sky = mix(mix(rgb(10, 12, 44), rgb(38, 38, 98), y), rgb(250, 244, 205), stars(x, y));
      return mix(sky, rgb(252, 246, 214), moon(x, y));
    };
  },
  "in front of a brick wall": (draw) => {
    const [shift, phase] = [draw(0, 1), draw(0, 6)];
    return (x, y) => {
      const row = Math.floor(y * 6);
      const across = x * 3 + 0.5 * (row % 2) + shift;
      const tone = 1 + 0.1 * Math.sin(row * 5.1 + Math.floor(across) * 3.7 + phase);
      const mortar = (y * 6) % 1 < 0.14 || across % 1 < 0.07;
      return mortar ? rgb(214, 186, 174) : rgb(172, 72, 58).map((value) => value * tone);
    };
  },
};

// A thing on one of them: bytes of RGB, side x side. thing: bytes of RGBA, side x side, where it is to stand.
export function compose(draw, thing, setting, side) {
  const at = SETTINGS[setting](draw, side);
  const pixels = new Uint8Array(3 * side * side);
  for (let i = 0; i < side * side; i++) {
    const colour = at(((i % side) + 0.5) / side, (Math.floor(i / side) + 0.5) / side);
    const alpha = thing[4 * i + 3] / 255;
    for (let c = 0; c < 3; c++) pixels[3 * i + c] = clip(colour[c] * (1 - alpha) + (thing[4 * i + c] / 255) * alpha) * 255 + 0.5;
  }
  return pixels;
}

// 1 above the edge, 0 below, one pixel of anti-aliasing.
const above = (edge, y, side) => clip((edge - y) * side + 0.5);

const disc = (cx, cy, radius, side) => (x, y) => clip((radius - Math.hypot(x - cx, y - cy)) * side + 0.5);

// `count` discs, the highest of them where several meet.
function dots(draw, count, radius, high, side) {
  const xs = Array.from({ length: count }, () => draw(0, 1));
  const ys = Array.from({ length: count }, () => draw(0, high));
  const all = xs.map((x, i) => disc(x, ys[i], radius, side));
  return (x, y) => Math.max(...all.map((one) => one(x, y)));
}
