// Files of safetensors, the library's own format: tensors are an object of names, each { shape, data }; metadata one of
// texts.

const half = (bits) => {
  const [sign, power, rest] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (power === 31) return rest ? NaN : sign * Infinity;
  return sign * (power ? 2 ** (power - 15) * (1 + rest / 1024) : 2 ** -14 * (rest / 1024));
};
const WIDTH = { F16: 2, F32: 4 };

// bytes: a Uint8Array. Half and single precision; raises RangeError for others and for what is no such file.
export function readTensors(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = bytes.length < 8 ? Infinity : Number(view.getBigUint64(0, true));
  if (size > bytes.length - 8) throw new RangeError("this is no file of safetensors");
  const { __metadata__: metadata = {}, ...described } = header(bytes.subarray(8, 8 + size));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(described)) {
    if (!WIDTH[dtype]) throw new RangeError(`${name} is ${dtype}; what can be read here is F16 and F32`);
    if (!(from >= 0 && from <= to && 8 + size + to <= bytes.length)) throw new RangeError("this file of safetensors is damaged");
    const data = new Float32Array((to - from) / WIDTH[dtype]);
    for (let i = 0; i < data.length; i++) {
      const place = 8 + size + from + i * WIDTH[dtype];
      data[i] = dtype === "F32" ? view.getFloat32(place, true) : half(view.getUint16(place, true));
    }
    tensors[name] = { shape, data };
  }
  return { tensors, metadata };
}

function header(bytes) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new RangeError("this is no file of safetensors");
  }
}

// In single precision. metadata: an object of texts.
export function writeTensors(tensors, metadata = {}) {
  let end = 0;
  const header = { __metadata__: metadata };
  for (const [name, { shape, data }] of Object.entries(tensors)) {
    header[name] = { dtype: "F32", shape, data_offsets: [end, (end += 4 * data.length)] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const size = Math.ceil(text.length / 8) * 8; // padded with spaces, as the format asks
  const bytes = new Uint8Array(8 + size + end).fill(32, 8, 8 + size);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(size), true);
  bytes.set(text, 8);
  let place = 8 + size;
  for (const { data } of Object.values(tensors)) {
    for (const x of data) {
      view.setFloat32(place, x, true);
      place += 4;
    }
  }
  return bytes;
}
