// Frames a second of @vladmandic/face-api with its SSD detector, for predict.py: FRAMES WIDTH HEIGHT COUNT.
// FRAMES is a file of decoded RGB frames, as node has no video decoder.

const fs = require('fs');
const path = require('path');
const protocol = require('./protocol.js');

async function main() {
  const [file, width, height, count] = process.argv.slice(2).map((word, place) => (place ? Number(word) : word));
  const tf = await protocol.ready();
  const faceapi = require('@vladmandic/face-api/dist/face-api.node-wasm.js');
  const folder = path.join(path.dirname(require.resolve('@vladmandic/face-api/package.json')), 'model');
  await faceapi.nets.ssdMobilenetv1.loadFromDisk(folder);
  await faceapi.nets.faceExpressionNet.loadFromDisk(folder);
  const options = new faceapi.SsdMobilenetv1Options({ maxResults: 100 });
  const area = width * height * 3;
  const opened = fs.openSync(file);
  const pixels = new Uint8Array(area);
  const look = async (number) => {
    fs.readSync(opened, pixels, 0, area, number * area);
    const frame = tf.tensor3d(pixels, [height, width, 3], 'int32');
    const faces = await faceapi.detectAllFaces(frame, options).withFaceExpressions();
    frame.dispose();
    return faces.length;
  };
  await look(0);
  let faces = 0;
  const begin = performance.now();
  for (let number = 0; number < count; number++) faces += await look(number);
  console.log(JSON.stringify({ rate: (1000 * count) / (performance.now() - begin), faces, frames: count }));
}

main().catch((error) => { console.error(String(error)); process.exit(1); });
