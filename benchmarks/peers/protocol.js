// The same as protocol.py for peers of Node.js, which run on TensorFlow.js with WebAssembly, one thread.

const fs = require('fs');
const path = require('path');

const WARM_UP = 20;

// The backend, ready, with one thread.
async function ready() {
  const tf = require('@tensorflow/tfjs');
  const wasm = require('@tensorflow/tfjs-backend-wasm');
  wasm.setWasmPaths(path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm')) + path.sep);
  wasm.setThreadsCount(1);
  await tf.setBackend('wasm');
  await tf.ready();
  if (tf.getBackend() !== 'wasm') throw new Error(`the backend is ${tf.getBackend()}, expected wasm`);
  return tf;
}

// `load` gives {classify, weightsBytes}; classify(face) -> seven numbers, for a Uint8Array of side * side grey pixels.
async function main(load) {
  const [faces, count, side, answers, option, timed] = process.argv.slice(2);
  const pixels = new Uint8Array(fs.readFileSync(faces));
  const area = side * side;
  const face = (number) => pixels.subarray((number % count) * area, (number % count) * area + area);
  const { classify, weightsBytes } = await load(Number(side));
  const found = { weights_bytes: weightsBytes };
  if (option === '--time') {
    const spent = [];
    for (let number = 0; number < WARM_UP + Number(timed); number++) {
      const begin = performance.now();
      await classify(face(number));
      spent.push(performance.now() - begin);
    }
    const sorted = spent.slice(WARM_UP).sort((a, b) => a - b);
    found.ms = (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
  } else {
    const written = new Float32Array(count * 7);
    for (let number = 0; number < count; number++) written.set(await classify(face(number)), number * 7);
    fs.writeFileSync(answers, Buffer.from(written.buffer));
  }
  console.log(JSON.stringify(found));
}

module.exports = {
  ready,
  run: (load) => main(load).catch((error) => { console.error(String(error)); process.exit(1); }),
};
